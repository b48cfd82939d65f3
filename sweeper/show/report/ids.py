"""tmp"""


class Ids:
    def __init__(self, numbers=()):
        pass

    @classmethod
    def of(cls, m):
        return cls()

    def score(self, *a):
        return ""

    effect = share = floor = finding = score
