"""Plurals in a fraction of inflect's own time, and typeguard as it was."""

import subprocess
import sys

import pytest

from interp.plurals import engine, unchecked


def test_a_command_does_not_wait_for_type_checks_of_inflect_to_be_compiled():
    code = (
        "import typeguard\n"
        "own, asked = typeguard.typechecked, []\n"
        "typeguard.typechecked = count = lambda *given, **how: asked.append(given) or own(*given, **how)\n"
        "from interp.plurals import engine\n"
        "print(engine().singular_noun('people'), engine(classical=True).plural_noun('octopus'))\n"
        "assert not asked and typeguard.typechecked is count\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["person", "octopodes"], done.stderr


def test_typeguard_is_as_it_was_even_after_an_import_that_fails():
    import typeguard

    own = typeguard.typechecked
    with pytest.raises(ImportError), unchecked():
        assert typeguard.typechecked is not own
        import no_such_library  # noqa: F401  # type: ignore[import-not-found]
    assert typeguard.typechecked is own
    assert engine().plural_noun("octopus") == "octopuses"  # type: ignore[arg-type]
