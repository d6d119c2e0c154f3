"""What every server refuses, and in which words."""

from typing import Any

TOPIC = "sequence_classification"

REFUSED: list[tuple[str, str, dict[str, Any], int, str, str]] = [
    ("GET", "/v2", {}, 404, "unknown_path", "is no path of this server"),
    ("GET", "/v1/predict", {}, 405, "wrong_method", "takes POST"),
    ("POST", "/v1/predict", {"content": b"{}"}, 415, "unsupported_type", "send JSON"),
    ("POST", "/v1/predict", {"content": b"{", "headers": {"Content-Type": "application/json"}},
     400, "malformed_body", "not JSON"),
    ("POST", "/v1/predict", {}, 422, "invalid_request", "body is missing"),
    ("POST", "/v1/predict", {"json": {"inputs": []}}, 422, "invalid_request", "body.expert is missing"),
    ("POST", "/v1/predict", {"json": {"expert": TOPIC, "input": []}}, 422, "invalid_request",
     "no field named 'input'. Did you mean 'inputs'?"),
    ("POST", "/v1/predict", {"json": {"expert": TOPIC, "inputs": [], "options": {"max_tokens": 3}}},
     422, "invalid_request", "body.options.max_tokens: no field named 'max_tokens'. Did you mean 'max_new_tokens'?"),
    ("POST", "/v1/predict", {"json": {"expert": TOPIC, "inputs": [3]}}, 422, "invalid_request", "body.inputs.0"),
    ("POST", "/v1/predict", {"json": {"expert": "topik", "inputs": ["a"]}}, 404, "unknown_expert", "no expert named"),
    ("POST", "/v1/predict", {"json": {"expert": "../etc", "inputs": ["a"]}}, 400, "name_refused", "no expert can be"),
    ("POST", "/v1/predict", {"json": {"expert": TOPIC, "inputs": [{"txt": "a"}]}}, 422, "bad_input",
     "input 0: text is missing"),
    ("POST", "/v1/predict", {"json": {"expert": TOPIC, "inputs": ["a"], "options": {"seed": 3}}}, 422, "bad_input",
     "generation settings are for"),
    ("POST", "/v1/predict", {"json": {"expert": TOPIC, "inputs": ["a"] * 257}}, 413, "too_large", "257 inputs"),
    ("POST", "/v1/predict", {"json": {"expert": TOPIC, "inputs": ["a"], "options": {"max_new_tokens": 4096}}}, 422,
     "invalid_request", "4096 tokens to be written"),
    ("POST", "/v1/predict", {"json": {"expert": TOPIC, "inputs": ["a"]}, "headers": {"Weft-Deadline": "soon"}}, 422,
     "invalid_request", "header.weft-deadline"),
    ("POST", "/v1/predict", {"json": {"expert": TOPIC, "inputs": ["a"]}, "headers": {"Weft-Deadline": "1e-9"}}, 504,
     "deadline_passed", "no answer in the 1e-09 s"),
    ("POST", "/v1/predict", {"content": b"0" * (8 << 20) + b"1"}, 413, "too_large", "a body may have"),
    ("GET", "/healthz", {"headers": {"Host": "evil.example"}}, 421, "wrong_host", "'evil.example' is not what"),
    ("PUT", "/v1/experts/new", {"json": {"folder": "/etc"}}, 422, "expert_refused", "lies in none of the folders"),
    ("PUT", "/v1/experts/new", {"json": {"folder": "a\u0000b"}}, 422, "invalid_request", "body.folder"),
    ("PUT", "/v1/experts/new", {"json": {"folder": "a" * 300}}, 422, "bad_input", "no system has names that long"),
    ("PUT", "/v1/experts/auto", {"json": {"folder": TOPIC}}, 400, "name_refused", "cannot be put"),
    ("DELETE", f"/v1/experts/{TOPIC}/task", {}, 400, "name_refused", "names a task"),
    ("DELETE", "/v1/experts/nobody", {}, 404, "unknown_expert", "no expert named"),
]  # fmt: skip
