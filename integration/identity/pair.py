"""A hostile user and the one who must not notice, each with chains of its own: what these suites share."""

from lib.harness import Case, add_user, remove_user


class Pair(Case):
    # Of Mallory and of the victim; another pair for each suite.
    names = ()

    @classmethod
    def setUpClass(cls):
        cls.mallory, cls.victim = map(add_user, cls.names)

    @classmethod
    def tearDownClass(cls):
        for name in cls.names:
            remove_user(name)
