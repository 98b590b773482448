"""The capability-boundary study: what does a policy learn to do alone that it could not do in 256 attempts?"""
