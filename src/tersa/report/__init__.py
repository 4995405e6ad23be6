"""What a result looks like: the same rows and words for the terminal and for one self-contained HTML page."""
