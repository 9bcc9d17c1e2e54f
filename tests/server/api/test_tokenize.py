"""/tokenize, /detokenize and /apply-template, in vLLM's words and in llama.cpp's."""

import pytest

HI = [{"role": "user", "content": "hi"}]


def post(served, path, **body):
    return served.http.post(path, json=body)


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
@pytest.mark.parametrize("name", ["prompt", "content"])
def test_text(served, path, name):
    response = post(served, path, **{name: "aé<|im_end|>", "model": "q"})
    assert response.json() == {"tokens": [97, 195, 169, 256], "count": 4, "max_model_len": 4096}


def test_special_tokens_as_text(served):
    tokens = post(served, "/tokenize", content="<|im_end|>", parse_special=False).json()["tokens"]
    assert tokens == list(b"<|im_end|>")


def test_pieces(served):
    body = post(served, "/tokenize", prompt="aé", with_pieces=True, return_token_strs=True).json()
    assert body["tokens"][0] == {"id": 97, "piece": "a"}
    assert body["token_strs"] == ["a", "�", "�"]


def test_messages_are_counted_as_a_chat_is(served):
    text = post(served, "/apply-template", messages=HI).json()["prompt"]
    assert text == "<user>hi<answer>"
    body = post(served, "/tokenize", messages=HI, add_special_tokens=False).json()
    assert body["tokens"] == list(text.encode())


def test_a_message_to_go_on_with(served):
    messages = [*HI, {"role": "assistant", "content": "So"}]
    body = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    assert post(served, "/v1/apply-template", **body).json()["prompt"] == "<user>hi<assistant>So"


@pytest.mark.parametrize("path", ["/detokenize", "/v1/detokenize"])
def test_detokenize(served, path):
    body = post(served, path, tokens=[97, 195, 169, 256]).json()
    assert body == {"prompt": "aé<|im_end|>", "content": "aé<|im_end|>"}


def test_both_ways(served):
    text = "naïve 🗼 <|fim_prefix|>"
    tokens = post(served, "/tokenize", prompt=text).json()["tokens"]
    assert post(served, "/detokenize", tokens=tokens).json()["prompt"] == text
    assert post(served, "/tokenize", prompt="").json()["tokens"] == []
    assert post(served, "/detokenize", tokens=[]).json()["prompt"] == ""


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "a", "content": "a"}, "content"),
        ("/tokenize", {"prompt": "a", "messages": HI}, "messages"),
        ("/tokenize", {"messages": [{"role": "robot"}]}, "messages[0].role"),
        ("/tokenize", {"messages": HI, "temperature": 9}, "temperature"),
        ("/tokenize", {"prompt": "a", "with_pieces": "x"}, "with_pieces"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [1.5]}, "tokens"),
        ("/detokenize", {"tokens": [True]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [999]}, "tokens"),
        ("/apply-template", {}, "messages"),
        ("/apply-template", {"messages": []}, "messages"),
    ],
)
def test_refused(served, path, body, param):
    response = post(served, path, **body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_strict_names(launch):
    served = launch(strict_model=True)
    assert post(served, "/tokenize", prompt="a", model="other").status_code == 404
    assert post(served, "/tokenize", prompt="a", model="served/name").status_code == 200
