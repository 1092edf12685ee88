"""The code in README and docs runs, page by page, from top to bottom."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.float32
@pytest.mark.parametrize(
    "page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda p: p.name
)
def test_code_on_a_page_runs(page, tmp_path, monkeypatch):
    text = page.read_text()
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in BLOCK.finditer(text):
        # Line numbers of a traceback are those of the page.
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_readme_is_short_before_its_reference_part():
    text = (ROOT / "README.md").read_text().split("\n## Reference")[0]
    words = re.sub(r"```.*?```", "", text, flags=re.DOTALL).split()
    assert len(words) < 500


def test_every_public_name_has_a_runnable_example():
    import rnnjax

    for module in (rnnjax, rnnjax.scan, rnnjax.initializers, rnnjax.testing):
        public = getattr(module, "__all__", None) or [
            n
            for n, value in vars(module).items()
            if not n.startswith("_")
            and getattr(value, "__module__", "") == module.__name__
            and callable(value)
            and not isinstance(value, type)
        ]
        for name in public:
            value = getattr(module, name)
            if callable(value) and not hasattr(value, "_fields"):
                doc = value.__doc__ or ""
                exempt = isinstance(value, type) and issubclass(value, Exception)
                assert ">>> " in doc or exempt or name == "Trace", name
