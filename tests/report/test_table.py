"""Tables in every format, letter by letter."""

from __future__ import annotations

import pytest

from vitadapt.report.table import format_table

HEAD = ["method", "a|b, c", "average"]
BODY = [["lora", "91.2 ± 0.5", "3"], ['the "q"', "-", "12"]]
TEXTS = {
    "md": """\
| method   | a|b, c     | average   |
|:---------|:-----------|:----------|
| lora     | 91.2 ± 0.5 | 3         |
| the "q"  | -          | 12        |

PE = x

† y""",
    "csv": """\
method,"a|b, c",average
lora,91.2 ± 0.5,3
"the ""q\""",-,12
""",
    "latex": r"""\begin{tabular}{lll}
\toprule
method & a|b, c & average \\
\midrule
lora & 91.2 $\pm$ 0.5 & 3 \\
the "q" & - & 12 \\
\bottomrule
\end{tabular}

% PE = x
% † y""",
}


@pytest.mark.parametrize("form", TEXTS)
def test_a_table_is_printed_as_ever(form):
    assert format_table(HEAD, BODY, ["PE = x", "† y"], form) == TEXTS[form]
