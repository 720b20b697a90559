"""What the method pages compute on the spot, with the real `edkm`.

Not here: pages and charts, and anything of a recorded run.
"""
