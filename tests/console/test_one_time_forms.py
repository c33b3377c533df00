"""The same form acts once; another person's, another page's and another form's act is its own."""

import threading

import pytest
from starlette.responses import PlainTextResponse, Response

from worker.console.process_state import OneTimeForms, SentForm

ANN = SentForm("ann", "/fleet/pause?lane=money", "t1")


def answer() -> Response:
    return PlainTextResponse("done")


@pytest.mark.parametrize(
    "other", [ANN._replace(person="bob"), ANN._replace(address="/fleet/pause?lane=bulk"), ANN._replace(token="t2")]
)
def test_a_token_belongs_to_one_person_and_one_address(other: SentForm) -> None:
    forms = OneTimeForms()
    first = forms.once(ANN, answer)

    assert forms.once(ANN, answer) is first
    assert forms.once(other, answer) is not first


def test_the_same_form_waits_for_the_first_and_no_other_form_does() -> None:
    forms = OneTimeForms()
    acts, go_on, answers = threading.Semaphore(0), threading.Event(), list[Response]()

    def slow() -> Response:
        acts.release()
        assert go_on.wait(10)
        return answer()

    threads = [threading.Thread(target=lambda: answers.append(forms.once(ANN, slow))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert acts.acquire(timeout=10)

    other = threading.Thread(target=forms.once, args=(ANN._replace(token="t2"), answer), daemon=True)
    other.start()
    other.join(5)
    assert not other.is_alive()

    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(answers) == 2
    assert answers[0] is answers[1]
    assert not acts.acquire(blocking=False)


def test_a_form_whose_act_raised_an_error_may_be_sent_again() -> None:
    forms = OneTimeForms()

    def fails() -> Response:
        raise OSError("the ledger does not answer")

    with pytest.raises(OSError, match="does not answer"):
        forms.once(ANN, fails)

    assert forms.once(ANN, answer).body == b"done"
