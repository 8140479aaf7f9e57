"""The sentence of a refused command, and the files that it left as they were."""

from wardround.errors import WardroundError


def refusal(ended, kind=WardroundError, code=None):
    """The one sentence a refused command printed, after the stages it went through, for an error of this kind."""
    assert ended.code == 2, ended.err
    assert isinstance(ended.error, kind), repr(ended.error)
    assert code in (None, ended.error.code), ended.error.code
    assert "Traceback" not in ended.err
    assert "Error:" not in ended.err
    said = [line for line in ended.err.splitlines() if not line.startswith("·")]
    assert said[0].startswith("wardround: "), ended.err
    assert sum(line.startswith("wardround: ") for line in said) == 1, ended.err
    assert ended.out == ""
    message = "\n".join(said).removeprefix("wardround: ")
    sentence, _, command = message.partition(" Go on with: ")
    assert sentence.rstrip().endswith((".", ")", "?")), message
    assert command == "" or command.startswith("wardround resume "), message
    return message


def contents(folder):
    """Every file of a folder with its bytes; the lock file says nothing."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
