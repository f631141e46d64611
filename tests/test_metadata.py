"""What is said of the project in several places is the same in all of them."""

import configparser
import pathlib
import re

import yaml

import autodo_jax

ROOT = pathlib.Path(__file__).parents[1]
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg")


def load(path):
    return yaml.safe_load((ROOT / path).read_text())


def test_the_citation_has_this_version_and_licence():
    citation = load("CITATION.cff")
    assert citation["version"] == autodo_jax.__version__
    assert citation["license"] == SETUP["metadata"]["license"]
    names = [a["family-names"] for a in citation["preferred-citation"]["authors"]]
    readme = (ROOT / "README.md").read_text()
    assert len(names) == 5 and all(name in readme for name in names)


def test_ci_runs_the_versions_of_python_that_are_named():
    named = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    jobs = load(".github/workflows/ci.yml")["jobs"]
    assert jobs["all"]["strategy"]["matrix"]["python"] == named
    assert SETUP["options"]["python_requires"] == f">={named[0]}"
    rows = jobs["versions"]["strategy"]["matrix"]["include"]
    assert [row["python"] for row in rows] == [named[0], named[-1]]


def test_every_requirement_has_a_lower_bound():
    for line in SETUP["options"]["install_requires"].split():
        assert ">=" in line, line


def test_the_readme_is_short_and_its_picture_small():
    readme = (ROOT / "README.md").read_text()
    assert readme.count("\n") <= 150
    for image in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", readme):
        assert (ROOT / image).stat().st_size < 200_000


def test_links_between_files_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text()):
            if not target.startswith(("http:", "https:")):
                generated = target.startswith(("reference/", "examples/"))
                assert generated or (page.parent / target).exists(), (page, target)
