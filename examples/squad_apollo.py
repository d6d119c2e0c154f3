"""Ask an expert trained on SQuAD about the Moon: `python squad_apollo.py RUN_FOLDER`."""

import sys

from weft import predict

CONTEXT = (
    "The Apollo program was the third United States human spaceflight program carried out by NASA, "
    "which accomplished landing the first humans on the Moon from 1969 to 1972."
)
QUESTION = "When did the Apollo program accomplish the first moon landing?"

[answer] = predict(sys.argv[1], [{"question": QUESTION, "context": CONTEXT}])
print(
    f"{answer['text']}  (characters {answer['start']}-{answer['end']}, score {answer['score']:.2f})"
)
