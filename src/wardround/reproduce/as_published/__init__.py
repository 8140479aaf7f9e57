"""Published training loops as they were published, mistakes included. None of them gives a guarantee.

They share no code with private training: plain loops over plain arrays, so that nothing here can be switched on by
accident and nothing of private training can leak in here. Each says why it promises nothing.
"""
