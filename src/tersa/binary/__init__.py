"""Packed programs of low-bit networks: integers in words of 64 bits, XNOR and popcount.

Nothing in here but `convert` knows torch: a program loads and runs without it.
"""
