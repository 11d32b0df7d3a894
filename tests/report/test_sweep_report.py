"""The report of a sweep: whole, readable by machines, the same again, and dependent on nothing outside it."""

import csv
import html.parser
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Row
from mdm_lightning.report.build import build_report
from mdm_lightning.report.columns import columns, sections
from mdm_lightning.report.figures import section_figures
from mdm_lightning.report.html import html_table
from mdm_lightning.report.markup import escape_latex, latex, markdown
from mdm_lightning.report.notation import number, p_value, signed
from mdm_lightning.report.records import Cell, Sweep
from mdm_lightning.report.tables import Item, Table, results_csv
from mdm_lightning.tables import escape_markdown
from tests.report.synthetic_sweep import failed_cell, make_cell, make_sweep, write_sweep

HOSTILE = "a_b & c|d <i>50%</i> $x$ # {y} ~ ^ \\ *z*"


class Resources(html.parser.HTMLParser):
    """What a page loads or links to, and its balance of opened and closed elements."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data") and value]
        self.found += [tag] if tag in ("script", "link", "iframe", "object") else []
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The report of a refined sweep with a failed cell."""
    cells = [*make_sweep(grid=(0.3, 0.5, 0.9), budgets=(16, 64), refine=2), failed_cell(error="<b>boom</b> & more")]
    folder = write_sweep(tmp_path_factory.mktemp("sweep"), cells, command="python sweep.py 'a<b'")
    return build_report(folder)


def test_what_is_written(report):
    names = sorted(str(path.relative_to(report.parent)) for path in report.parent.rglob("*") if path.is_file())
    assert [name for name in names if not name.startswith("cells/")] == [
        "figures/schedules_of_the_verdicts.png",
        "figures/score_against_forward_passes.png",
        "figures/score_against_steps.png",
        "figures/score_over_alpha_and_beta.png",
        "report.html",
        "results.csv",
        "sweep.json",
        "table.md",
        "table.tex",
    ]


def test_built_again_it_is_the_same(report):
    def contents():
        return {path: path.read_bytes() for path in report.parent.rglob("*") if path.is_file()}

    before = contents()
    build_report(report.parent)
    assert contents() == before


def test_the_page_needs_nothing_else(report):
    text = report.read_text("utf-8")
    page = Resources()
    page.feed(text)
    assert not page.open
    assert len(page.found) == 4
    assert all(address.startswith("data:image/png;base64,") for address in page.found)
    words = re.sub(r'src="data:[^"]*"', "", text)
    assert not re.search(r"https?:|//|url\(|@import", words)


def test_the_page_says_what_happened(report):
    text = report.read_text("utf-8")
    for phrase in (
        "38 cells finished, 1 failed",
        "use Beta(0.9, 0.3)",
        "fresh instances",
        "&lt;b&gt;boom&lt;/b&gt; &amp; more",
        "python sweep.py &#39;a&lt;b&#39;",
        "outputs/countdown/checkpoints/last.ckpt",
        "Spearman",
        "Holm",
    ):
        assert phrase in text, phrase
    assert "the theorem does not cover" not in text
    assert text.index("What to use") < text.index("Scores") < text.index("<img") < text.index("How it was run")


def test_predictions_for_confidence_orders_carry_the_caveat(tmp_path):
    folder = write_sweep(tmp_path, [make_cell(name, 16, order="confidence") for name in ("linear", "sine")])
    assert "the theorem does not cover confidence-ordered sampling" in build_report(folder).read_text("utf-8")


def test_results_have_a_line_per_cell_and_metric():
    cells = [make_cell("linear", 16, order="random"), make_cell((0.9, 0.3), 16, order="margin"), failed_cell()]
    lines = list(csv.DictReader(results_csv(Sweep({}, cells)).splitlines()))
    by_cell = {(line["schedule"], line["alpha"], line["metric"]): line for line in lines}
    assert len(lines) == len(by_cell) == 7
    accuracy = by_cell["beta", "0.9", "accuracy"]
    row, passes, _ = cells[1].rows
    assert (float(accuracy["value"]), float(accuracy["stderr"])) == (row.value, row.stderr)
    assert float(accuracy["nfe"]) == passes.value
    assert {name: accuracy[name] for name in ("beta", "steps", "n", "stage", "status", "seconds", "order")} == {
        "beta": "0.3",
        "steps": "16",
        "n": "200",
        "stage": "grid",
        "status": "finished",
        "seconds": "0.16",
        "order": "margin",
    }
    assert by_cell["beta", "-1.0", ""]["error"] == "ValueError: alpha must be positive"


def test_tables_are_in_the_papers_layout(report):
    text = (report.parent / "table.md").read_text("utf-8")
    refined, grid = text.split("bold: within one standard error")[1:3]
    for table, labels in ((refined, 6), (grid, 13)):
        rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
        assert rows[0] == ["schedule", "16 steps", "64 steps"]
        assert [row[0] for row in rows[2:6]] == ["linear", "cosine", "sine", "squared sine"]
        assert len(rows[2:]) >= labels
        for column in (1, 2):
            assert any(row[column].startswith("**") for row in rows[2:])
    assert (report.parent / "table.tex").read_text("utf-8").count(r"\begin{tabular}{lrr}") == 2


def test_each_combination_of_the_other_axes_has_a_section(tmp_path):
    cells = [make_cell(name, 16, order=order) for name in ("linear", "sine") for order in ("random", "margin")]
    shown: dict[str, Figure] = {}
    text = build_report(write_sweep(tmp_path, cells), shown.__setitem__).read_text("utf-8")
    assert {name.partition(" (")[2] for name in shown} == {"order = margin)", "order = random)"}
    assert "What to use: order = margin" in text
    assert "What to use: order = random" in text
    assert len(list((tmp_path / "figures").iterdir())) == 6


def shown(figure: Figure) -> set[str]:
    """Labels of the legends of a figure."""
    return {text.get_text() for legend in figure.legends for text in legend.get_texts()}


def figures(cells: Sequence[Cell]) -> dict[str, Figure]:
    """The figures of a sweep of one objective and one section."""
    sweep = Sweep({}, cells)
    (objective,) = sweep.objectives()
    (section,) = sections(columns(sweep, objective)).values()
    return section_figures(section)


def test_figures_show_the_best_and_the_baselines():
    cells = make_sweep(budgets=(16, 32, 64))
    drawn = figures(cells)
    lines = shown(drawn["score against steps"])
    assert {"linear", "cosine", "sine", "squared sine", "other Beta pairs"} < lines
    best = [max((c for c in cells if c.steps == k and c.alpha), key=lambda c: c.rows[0].value) for k in (16, 32, 64)]
    assert {cell.label for cell in best} < lines
    assert len(lines) <= 4 + 3 + 1
    (axes,) = drawn["score against steps"].axes
    assert [axes.xaxis.get_major_formatter()(x, 0) for x in axes.get_xticks()] == ["16", "32", "64"]
    heatmap = drawn["score over alpha and beta"]
    assert shown(heatmap) == {"best", "linear = Beta(0.5, 0.5)", "squared sine = Beta(1, 1)"}
    panels = [axes for axes in heatmap.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["16 steps", "32 steps", "64 steps"]
    assert [len(axes.texts) for axes in panels] == [36] * 3


def test_tiles_lie_where_their_parameters_say():
    """The number on the tile at (alpha, beta) is that cell's score, and the best one is starred."""
    cells = make_sweep(budgets=(16,))
    axes = figures(cells)["score over alpha and beta"].axes[0]
    alphas = [float(tick.get_text()) for tick in axes.get_xticklabels()]
    betas = [float(tick.get_text()) for tick in axes.get_yticklabels()]
    written = {tuple(map(round, text.get_position())): text.get_text() for text in axes.texts}
    pairs = [cell for cell in cells if cell.alpha is not None]
    for cell in pairs:
        assert written[alphas.index(cell.alpha), betas.index(cell.beta)] == f"{cell.rows[0].value:.3f}"
    best = max(pairs, key=lambda cell: cell.rows[0].value)
    star = next(dots for dots in axes.collections if dots.get_label() == "best").get_offsets()[0]
    assert [round(x) for x in star] == [alphas.index(best.alpha), betas.index(best.beta)]


ODD_SWEEPS = {
    "one pair": [make_cell((0.9, 0.3), 16)],
    "no baseline": [make_cell((alpha, 0.3), 16) for alpha in (0.3, 0.9)],
    "scattered pairs": [make_cell((0.1 + 0.03 * i, 1.1 - 0.021 * i * i % 1), 16) for i in range(20)],
    "a step per token": [replace(cell, steps=None, id=cell.id + "-all") for cell in make_sweep((0.3, 0.9), (16,))],
    "neither passes nor a budget": [replace(make_cell("linear", 16), steps=None, rows=make_cell("sine", 8).rows[:1])],
    "a hole, and no passes": [
        replace(cell, rows=cell.rows[:1])
        for cell in make_sweep((0.3, 0.9), (16, 32))
        if cell.id != "grid-beta-0.3-0.9-16"
    ],
    "all failed": [failed_cell(16), failed_cell(32)],
    "no spread": [
        replace(cell, rows=[cell.rows[0]._replace(value=0.0, stderr=0.0, scores=[0.0] * 200), *cell.rows[1:]])
        for cell in make_sweep((0.3, 0.9), (16,))
    ],
}


@pytest.mark.parametrize("name", ODD_SWEEPS)
def test_odd_sweeps_have_reports_too(name, tmp_path):
    text = build_report(write_sweep(tmp_path, ODD_SWEEPS[name])).read_text("utf-8")
    page = Resources()
    page.feed(text)
    assert not page.open
    assert ("What to use" in text) == (name != "all failed")


def test_a_wrong_metric_is_refused_before_anything_is_written(tmp_path):
    folder = write_sweep(tmp_path, [make_cell("linear", 16)], metric="bleu")
    with pytest.raises(UserError, match=r"metric=bleu.*accuracy"):
        build_report(folder)
    assert not (folder / "results.csv").exists()


def test_hostile_text_is_escaped():
    table = Table("t", HOSTILE, ["schedule", HOSTILE], [[Item(HOSTILE), Item(HOSTILE, bold=True)]])
    row = markdown(table).splitlines()[-1]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert not re.search(r"(?<!\\)[_$<>#~`]", row)
    body = latex(table).split(r"\midrule")[1].splitlines()[1]
    assert len(re.findall(r"(?<!\\)&", body)) == 1
    assert not re.search(r"(?<!\\)[%#_]", body)
    page = Resources()
    page.feed(html_table(table))
    assert not page.open
    assert "<i>" not in html_table(table)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a_b", r"a\_b"), ("1 ± 2", r"1 $\pm$ 2"), ("\\{", r"\textbackslash{}\{"), ("−1 < 2", r"$-$1 $<$ 2")],
)
def test_latex_escapes(text, expected):
    assert escape_latex(text) == expected


def test_markdown_escapes_keep_lines_whole():
    assert escape_markdown("a\nb|c") == r"a b\|c"


MARKDOWN = {
    "a|b": r"a\|b",
    "`code` &lt;b&gt;": r"\`code\` \&lt;b\&gt;",
    "<script>alert(1)</script>": r"\<script\>alert(1)\</script\>",
    "[x](javascript:y) ![x](y)": r"\[x\](javascript:y) !\[x\](y)",
    "- item": r"\- item",
    "1. item": r"1\. item",
    "# title": r"\# title",
    "-0.3 and 1.5": "-0.3 and 1.5",
    "two\n\nparagraphs\r\n| and | rows |": r"two paragraphs \| and \| rows \|",
    "red \x1b[31m alarm\x07": "red \ufffd\\[31m alarm\ufffd",
}


@pytest.mark.parametrize("text", MARKDOWN)
def test_markdown_shows_what_it_is_given(text):
    assert escape_markdown(text) == MARKDOWN[text]


def test_line_breaks_do_not_end_a_comment_or_a_row_of_latex():
    assert escape_latex("order = a\n\n\\input{x}\x1b") == r"order = a \textbackslash{}input\{x\}" + "\ufffd"


@pytest.mark.parametrize("file", ["table.md", "table.tex", "report.html"])
def test_hostile_axes_and_tasks_stay_text(tmp_path, file):
    """What a user or a task's file calls things, in every place where the report prints it."""
    hostile = "a|b`c`<i>x</i>[l](u)\n\n\\input{y}&amp;"
    cells = []
    for name in ("linear", "sine"):
        cell = make_cell(name, 8, sampler=hostile)
        rows = [row._replace(settings={"task": task}) for task in ("one", hostile) for row in cell.rows[:2]]
        cells.append(replace(cell, id=name, rows=rows, axes={**cell.axes, hostile: "v"}))
    build_report(write_sweep(tmp_path, cells, command=hostile))
    text = (tmp_path / file).read_text("utf-8")
    forbidden = {"table.md": r"(?<!\\)[`<\[&]", "table.tex": r"\\input\{|(?<!\\)&amp", "report.html": "<i>"}
    assert not re.search(forbidden[file], text)
    if file == "table.tex":
        assert all(line.startswith(("%", " ", "\\begin", "\\end")) for line in text.splitlines() if line)
    if file == "table.md":
        lengths = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
        assert set(lengths) == {3}, "one column of scores"


def test_the_report_of_exact_numbers_claims_no_error(tmp_path):
    """Neither in words, nor in tables, nor in what the page says of its method."""
    values = {"linear": 0.5, "sine": 0.75, (0.9, 0.3): 0.25, (0.3, 0.9): 0.625}
    cells = []
    for schedule, value in values.items():
        rows = [Row("kl", value, None, 32, {}, "lower", exact=True), Row("predicted_gap", value / 9, 0.01, 99, {})]
        cells.append(replace(make_cell(schedule, 3), rows=rows))
    page = build_report(write_sweep(tmp_path, cells))
    texts = [
        page.read_text("utf-8"),
        (tmp_path / "table.md").read_text("utf-8"),
        (tmp_path / "table.tex").read_text("utf-8"),
    ]
    for text in texts:
        words = re.sub(r'src="data:[^"]*"', "", text)
        for word in ("±", r"\pm", "standard error", "interval", "Holm", "bootstrap", "n = 32", "optimistic", "p-value"):
            assert word not in words, word
        assert "exact" in words
    assert "| Beta(0.9, 0.3) | **0.2500** |" in texts[1]
    assert texts[1].count("**") == 2 * 3, "the best score twice, and the smallest gap"
    assert "What to use" in texts[0]
    assert 'class="verdict sure"' in texts[0]
    lines = list(csv.DictReader((tmp_path / "results.csv").read_text("utf-8").splitlines()))
    assert {line["exact"] for line in lines if line["metric"] == "kl"} == {"True"}
    assert {line["stderr"] for line in lines if line["metric"] == "kl"} == {""}


def test_errors_are_spoken_of_where_there_are_any(tmp_path):
    """Estimates without errors are neither exact nor within an error of the best; exact scores beside estimates are
    written alone."""

    def scores(name: str, **changes) -> tuple[str, list[str]]:
        """Caption and rows of the table of scores, where the last two schedules have changed rows."""
        cells = [make_cell(schedule, 16) for schedule in ("linear", "cosine", "sine")]
        bare = {"stderr": None, "scores": None}
        rows = [cells[0].rows[0]._replace(**({} if changes else bare))]
        rows += [cell.rows[0]._replace(**bare, **changes) for cell in cells[1:]]
        build_report(
            write_sweep(tmp_path / name, [replace(cell, rows=[row]) for cell, row in zip(cells, rows, strict=True)])
        )
        caption, table = (tmp_path / name / "table.md").read_text("utf-8").split("\n\n")[1:]
        return caption, table.splitlines()[2:]

    caption, rows = scores("none")
    assert not any(word in caption for word in ("±", "standard error", "exact"))
    assert "bold: the column's best" in caption
    assert not any("±" in row for row in rows)
    caption, rows = scores("mixed", exact=True)
    assert "± standard error, exact scores alone" in caption
    assert ["±" in row for row in rows] == [True, False, False]


def test_several_tasks_have_tables_figures_and_lines_of_their_own(tmp_path):
    cells = []
    for name, values in (("linear", (0.25, 0.75)), ("sine", (0.5, 0.5))):
        rows = []
        for task, value in zip(("gsm8k", "bbh"), values, strict=True):
            scores = [value] * 8
            rows += [Row("exact_match", value, 0.125, 8, {"task": task}, "higher", scores)]
            rows += [Row("forward_passes", 10 * value, None, 8, {"task": task})]
        cells.append(replace(make_cell(name, 8), rows=rows))
    text = build_report(write_sweep(tmp_path, cells)).read_text("utf-8")
    assert "What to use: task = gsm8k" in text
    assert "What to use: task = bbh" in text
    lines = list(csv.DictReader((tmp_path / "results.csv").read_text("utf-8").splitlines()))
    found = {
        (line["schedule"], line["task"]): (line["value"], line["nfe"])
        for line in lines
        if line["metric"] == "exact_match"
    }
    assert found == {
        ("linear", "gsm8k"): ("0.25", "2.5"), ("linear", "bbh"): ("0.75", "7.5"),
        ("sine", "gsm8k"): ("0.5", "5.0"), ("sine", "bbh"): ("0.5", "5.0"),
    }  # fmt: skip
    sections = (tmp_path / "table.md").read_text("utf-8").split("## ")[1:]
    assert [section.splitlines()[0] for section in sections] == ["task = gsm8k", "task = bbh"]
    assert "| linear | 0.25 " in sections[0]
    assert "| linear | **0.75 " in sections[1]
    assert len(list((tmp_path / "figures").glob("*bbh*"))) == 3


def test_passes_are_shown_where_steps_do_not_say_what_they_cost(tmp_path):
    text = (build_report(write_sweep(tmp_path / "a", [make_cell((0.9, 0.3), 16)])).parent / "table.md").read_text(
        "utf-8"
    )
    assert "Forward passes per sequence" in text
    assert "| Beta(0.9, 0.3) | 14.08 |" in text
    text = (build_report(write_sweep(tmp_path / "b", [make_cell((0.9, 0.9), 16)])).parent / "table.md").read_text(
        "utf-8"
    )
    assert "Forward passes" not in text


def test_numbers():
    assert [number(-0.0004, 3), number(-0.02, 2), signed(0.0004, 3), signed(0.02, 2)] == [
        "0.000",
        "−0.02",
        "0.000",
        "+0.02",
    ]
    assert [p_value(0.00001), p_value(0.0039), p_value(1.0)] == ["p < 0.0001", "p = 0.0039", "p = 1"]
