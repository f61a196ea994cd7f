"""What declines and what answers."""

from __future__ import annotations

import pytest

from agenticlu.dialogue.refusals import is_refusal

REFUSALS = (
    "I'm sorry, I can't help.",
    "I’m sorry, I can’t help with that.",
    "I am sorry, but I cannot assist with this request.",
    "Sorry, I can't.",
    "Sorry, but I can't do that.",
    "I'm sorry.",
    "I cannot answer that.",
    "I can not answer this question.",
    "I can't provide that.",
    "I'm unable to answer.",
    "I am unable to help you here.",
    "I'm not able to respond to that.",
    "I apologize, but I cannot comply.",
    "I apologise for the inconvenience, but I can't answer.",
    "My apologies, I can't share that.",
    "Unfortunately, I cannot answer.",
    "I'm afraid I can't do that.",
    "As an AI, I cannot answer.",
    "As an AI language model, I can't discuss this.",
    "I must decline.",
    "I respectfully decline to answer.",
    "I won't answer that.",
    "I will not help with this.",
    "I'm not comfortable answering that.",
    "I do not feel comfortable discussing this.",
    "I am not allowed to answer.",
    "Answer: I'm sorry, I can't answer",
    "**Answer:** I cannot help with that.",
    "Final answer: I’m unable to assist.",
    "This request is against my guidelines.",
    "It would be inappropriate to answer.",
    "We cannot provide this.",
    "  \n I'm sorry, I can't help.",
)
ANSWERS = (
    "Sorry is the name of the horse",
    "Sorry",
    "I can't help but think of Brellin.",
    "I cannot say for certain, but it seems to be Brellin.",
    "I cannot give the exact year; about 1870.",
    "I do not know.",
    "I don't know.",
    "There is not enough information.",
    "The text does not say.",
    "I'm sorry, but the text does not say.",
    "I cannot answer this from the given passages.",
    "Unfortunately, the passages do not mention it.",
    "I can't tell from this paragraph.",
    "I cannot determine who it was.",
    "I'm sorry for the delay, wrote Ada.",
    "I am sorry, said the miller, and left.",
    "As an AI researcher she built it.",
    "As an aide to the mayor.",
    "I can help: it is Brellin.",
    "Answer: Brellin",
    "Answer: no",
    "No, he could not answer the letter.",
    "Cannot Hill",
    "Apologies were made by the king.",
    "He could not help it.",
    "They refused to help.",
    "I, Claudius",
    "Unable to sail, they walked.",
    "The request is in the letter.",
    "It would be Brellin.",
    "",
)


@pytest.mark.parametrize("reply", REFUSALS)
def test_a_reply_that_declines(reply: str):
    assert is_refusal(reply)


@pytest.mark.parametrize("reply", ANSWERS)
def test_a_reply_that_answers_or_says_that_the_text_does_not(reply: str):
    assert not is_refusal(reply)
