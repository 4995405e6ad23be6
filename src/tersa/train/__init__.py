"""One training run: how it is configured, stepped, watched, stored and taken up again.

config        what a run does, checked before it starts
optimisers    name -> torch optimiser
schedules     learning rate over the run, pure functions
losses        cross-entropy and distillation, pure functions
batches       the training split on the device, cut into batches
step          one update of one run
evaluation    accuracy and loss on a split
loop          epochs, early stop, divergence: `loop.train`
checkpoint    the whole state of a run in one file
history       epochs in SQLite
baseline      a trained network, cached by the hash of what made it
device        `auto`, `cpu`, `cuda`
"""
