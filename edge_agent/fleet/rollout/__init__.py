"""Rollouts: a bundle reaches a fleet ring by ring, and goes back by itself when devices fail.

``plan`` decides and is pure; ``devices`` remembers what each device has said; ``orders`` says what
is signed for a ring and for the way back; ``state`` keeps all of it in a ``database``; the
``controller`` leads. ``commands`` are the command line and ``views`` what it shows.
"""
