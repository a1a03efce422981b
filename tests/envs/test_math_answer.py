"""Reading the answer of a message, and comparing it."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest

from metarlgym.envs.math_answer import compare, last_answer, read_number


def order(message, gold="18"):
    """0 right, 1 too high, -1 too low, None without an answer."""
    answer = last_answer(message)
    return None if answer is None else compare(answer, read_number(gold))


RIGHT = [
    ("18", "18"),
    ("18.00", "18"),
    ("$18", "18"),
    ("**18**", "18"),
    ("#### 18", "18"),
    ("#### $1,018", "1018"),
    (r"\boxed{18}", "18"),
    (r"\fbox{18}", "18"),
    (r"\[ \boxed{ 18. } \]", "18"),
    (r"$\boxed{18}$ I hope it is right.", "18"),
    ("The answer is 18.", "18"),
    ("The answer is $18$ dollars, as 3+4=7.", "18"),
    ("The answer is 9 + 9 = 18 pens.", "18"),
    ("**Answer:** 18", "18"),
    ("Answer:\n18", "18"),
    (r"The final answer is: $\boxed{18}$", "18"),
    ("2 boxes x 9 = 18 pens.", "18"),
    ("1,000", "1000"),
    ("1,000,000.50", "1000000.5"),
    (r"\boxed{1{,}000}", "1000"),
    (r"\boxed{1\,000}", "1000"),
    (r"\boxed{1 000}", "1000"),
    (r"\boxed{\$1,000.00}", "1000"),
    (r"The answer is \$1,234.50", "1234.5"),
    ("1/2", "0.5"),
    ("0.50", "1/2"),
    (r"\boxed{.5}", "0.5"),
    (r"\boxed{\frac{1}{2}}", "0.5"),
    (r"\boxed{\dfrac{36}{2}}", "18"),
    (r"\boxed{\frac12}", "0.5"),
    (r"\boxed{1\frac{1}{2}}", "1.5"),
    (r"\boxed{1 1/2}", "1.5"),
    ("The answer is 50%.", "50"),
    (r"\boxed{50\%}", "50"),
    (r"\boxed{50\%}", "0.5"),
    (r"\boxed{12.5\%}", "0.125"),
    ("The answer is 50 percent", "50"),
    (r"\boxed{18\text{ dollars}}", "18"),
    (r"\boxed{18 dollars}", "18"),
    (r"\boxed{18 \, \text{cm}^2}", "18"),
    (r"\boxed{18^\circ}", "18"),
    (r"\boxed{\text{18}}", "18"),
    (r"\boxed{\text{Total: }18}", "18"),
    (r"\boxed{x = 18}", "18"),
    (r"\boxed{\left(18\right)}", "18"),
    (r"\boxed{-5}", "-5"),
    ("\\boxed{\u22125}", "-5"),  # a minus sign
    (r"\boxed{-\$5}", "-5"),
    (r"It is \boxed{5}. No, \boxed{18}", "18"),  # the last one counts
    (r"\boxed{5} or, in short,\n#### 18", "18"),
    (r"\boxed{18} and 5 remain", "18"),  # marked before unmarked
    (r"\boxed{18}. Or \boxed{1", "18"),  # cut off
    (r"<think>\boxed{5}</think>\boxed{18}", "18"),
    (r"<think>The answer is 5.</think> 18", "18"),
    ("#### Step 2\nThe answer is 18", "18"),  # a heading
    ("#### 3. Add\nthat makes 18", "18"),
]

WRONG = [
    (r"\boxed{18} or \boxed{19}", "18"),
    ("18 or 19", "18"),
    (r"<think>\boxed{18}</think> It is \boxed{5}", "18"),
    (r"\boxed{180}", "18"),
    (r"\boxed{18.01}", "18"),
    (r"\boxed{-18}", "18"),
    (r"\boxed{0.18}", "18"),
    (r"\boxed{1818}", "18"),
    ("18%", "0.5"),
]

UNREAD = [
    "",
    "no such action",
    "eighteen",
    r"\boxed{}",
    r"\boxed{x}",
    r"\boxed{17 or 18}",
    r"\boxed{17, 18}",
    r"\boxed{3*6}",
    r"\boxed{3 6}",
    r"\boxed{3$6}",
    r"\boxed{9^9^9^9}",
    r"\boxed{18e5}",
    r"\boxed{1/0}",
    r"\boxed{\frac{1}{0}}",
    r"\boxed{\sqrt{9}}",
    r"18 before \boxed{eighteen}",
    "<think>18",
    r"</think><think>\boxed{18}</think>",
    "\u0661\u0668",  # digits that are no ASCII
    "9" * 5000,
]


@pytest.mark.parametrize(("message", "gold"), RIGHT)
def test_what_a_person_accepts_is_right(message, gold):
    assert order(message, gold) == 0


@pytest.mark.parametrize(("message", "gold"), WRONG)
def test_another_number_is_wrong(message, gold):
    assert order(message, gold) in (1, -1)


@pytest.mark.parametrize("message", UNREAD)
def test_a_message_without_an_answer_is_invalid(message):
    assert last_answer(message) is None


HOSTILE = [
    "9**9**9**9",
    r"\boxed{9^{9^{9^9}}}",
    "1+" * 50_000,
    "answer is" + "1+" * 50_000,
    r"\boxed{" * 20_000,
    r"\boxed{" + "(" * 190 + "}",
    r"\boxed{1" + "a " * 90 + "1}",
    "answer is " * 20_000,
    "answer" + " " * 100_000 + "is 5",
    "####" * 20_000,
    "1 " * 50_000,
    "1,111" * 20_000,
    "\\frac{" * 10_000,
    "\\text{" * 20_000 + "}" * 20_000,
    "-" * 100_000,
    "= " * 50_000,
    "a" * 100_000,
    "<think>" * 20_000,
]


def test_hostile_messages_take_no_time():
    """Some milliseconds each. Rules that backtrack take minutes; the bound is for loaded machines."""
    order("1")  # math-verify is imported now
    for message in HOSTILE:
        start = time.perf_counter()
        assert order(message) != 0
        assert time.perf_counter() - start < 10, message[:20]


def test_math_verify_agrees_with_exact_arithmetic():
    rng = random.Random(0)
    for _ in range(300):
        top, bottom, other = rng.randint(-40, 40), rng.randint(1, 12), rng.randint(-40, 40)
        for text in (rf"\boxed{{{top}/{bottom}}}", f"The answer is {top / bottom:.2f}", f"so it is {top}"):
            answer = last_answer(text)
            value = Fraction(answer)
            assert compare(answer, str(other)) == (value > other) - (value < other), text


def test_answers_are_checked_on_any_thread():
    """math-verify's own time limits are signals, which only the main thread can have."""
    compare.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda i: order(rf"\boxed{{{i % 40}.0}}", str(i % 20)), range(400)))
    assert told == [(i % 40 > i % 20) - (i % 40 < i % 20) for i in range(400)]
