"""A store that tests hold in memory."""

from pathlib import Path


class Held:
    """A store in memory."""

    def __init__(self, files):
        self.root, self._files = Path("held"), files

    def names(self):
        return sorted(self._files)

    def size(self, name):
        return len(self._files[name])

    def read(self, name):
        return self._files[name]

    def head(self, name, num_bytes):
        return self._files[name][:num_bytes]

    def alias(self, name):
        return name

    def __contains__(self, name):
        return name in self._files

    def close(self):
        pass
