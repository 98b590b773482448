"""Task families: one file each. A family is a `TaskSet`: it makes tasks and grades answers to them."""
