"""A model for Triton's Python backend that talks as the simulated pods do.

It takes the requests of the vLLM backend, or of a TensorRT-LLM model that answers
once, and says the same tokens as package tritontest, so that a real server and the
simulator can be compared to the byte. Request parameters, beside max_tokens:

  fail_after  end with an error after so many responses (0: before the first)
"""

import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb

VOCABULARY = (
    "anchor aft beam bearing bell berth bow buoy cable calm chart coast compass course crew current "
    "deck depth dock draft drift ebb fathom flag fleet fog gale galley harbour haven heading helm "
    "hold hull island jib keel knot lantern latch lead lee log mast mooring north pier pilot "
    "port reef rhumb rigging rudder sail shoal sound star stern storm strait swell tack tide wind"
).split()

MASK = (1 << 64) - 1
FINAL = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def extend(state, text):
    """FNV-1a, continued with the text."""
    for byte in text.encode():
        state = ((state ^ byte) * 1099511628211) & MASK
    return state


def following(state):
    """The token that follows the text of this state."""
    x = state
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
    return " " + VOCABULARY[(x ^ x >> 31) % len(VOCABULARY)]


def tokens(model, prompt, count):
    state = extend(extend(extend(14695981039346656037, model), "\x00"), prompt)
    for _ in range(count):
        token = following(state)
        state = extend(state, token)
        yield token


class Request:
    """The inputs of one request, as the vLLM backend reads them."""

    def __init__(self, request):
        def value(name, default=None):
            tensor = pb.get_input_tensor_by_name(request, name)
            return default if tensor is None else tensor.as_numpy()[0]

        self.prompt = pb.get_input_tensor_by_name(request, "text_input").as_numpy()[0].decode()
        self.stream = bool(value("stream", False))
        self.prepend = not value("exclude_input_in_output", self.stream)
        parameters = json.loads(value("sampling_parameters", request.parameters()))
        self.count = int(value("max_tokens", parameters.get("max_tokens", 16)))
        self.fail_after = int(parameters.get("fail_after", -1))
        self.asked = {n: bool(value("return_" + n, False)) for n in ("finish_reason", "num_input_tokens", "num_output_tokens")}

    def refusal(self):
        if self.stream and self.prepend:
            return "When streaming, `exclude_input_in_output` = False is not allowed."
        if self.count < 1:
            return f"max_tokens must be at least 1, got {self.count}."
        return "simulated failure" if self.fail_after == 0 else None


def failure(why):
    text = pb.Tensor("text_output", np.array([b"N/A"], dtype=object))
    return pb.InferenceResponse([text], error=pb.TritonError("Error generating stream: " + why))


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.name = config["parameters"].get("speaks_as", {}).get("string_value", args["model_name"])
        self.pause = int(config["parameters"].get("inter_token_ms", {"string_value": "0"})["string_value"]) / 1000
        self.decoupled = pb.using_decoupled_model_transaction_policy(config)
        self.log_probs = any(o["name"] == "cum_log_probs" for o in config["output"])

    def execute(self, requests):
        if not self.decoupled:
            return [self.answer(r) for r in requests]
        for r in requests:
            threading.Thread(target=self.serve, args=(r, r.get_response_sender())).start()
        return None

    def serve(self, request, sender):
        try:
            self.stream(Request(request), sender)
        except Exception as e:  # as the vLLM backend does
            sender.send(failure(str(e)), flags=FINAL)

    def response(self, r, text, count, finish):
        out = [pb.Tensor("text_output", np.array([text.encode()], dtype=object))]
        if self.log_probs:
            out.append(pb.Tensor("cum_log_probs", np.zeros(1, dtype=np.float32)))
            out.append(pb.Tensor("output_log_probs", np.zeros(count, dtype=np.float32)))
        if r.asked["finish_reason"]:
            out.append(pb.Tensor("finish_reason", np.array([finish.encode()], dtype=object)))
        if r.asked["num_input_tokens"]:
            out.append(pb.Tensor("num_input_tokens", np.asarray(len(r.prompt.split()), dtype=np.uint32)))
        if r.asked["num_output_tokens"]:
            out.append(pb.Tensor("num_output_tokens", np.array([count], dtype=np.uint32)))
        return pb.InferenceResponse(out)

    def answer(self, request):
        r = Request(request)
        if r.refusal():
            return failure(r.refusal())
        text = ""
        for n, token in enumerate(tokens(self.name, r.prompt, r.count), 1):
            text += token
            time.sleep(self.pause if n < r.count else 0)
        return self.response(r, r.prompt + text if r.prepend else text, r.count, "length")

    def stream(self, r, sender):
        if r.refusal():
            sender.send(failure(r.refusal()), flags=FINAL)
            return
        if not r.stream:
            self.gather(r, sender)
            return
        for n, token in enumerate(tokens(self.name, r.prompt, r.count), 1):
            last = n == r.count
            if sender.is_cancelled():
                cancelled = pb.TritonError("Request was cancelled", pb.TritonError.CANCELLED)
                sender.send(pb.InferenceResponse(error=cancelled), flags=FINAL)
                return
            sender.send(self.response(r, token, 1, "length" if last else "None"), flags=FINAL if last else 0)
            if n == r.fail_after:
                sender.send(failure("simulated failure"), flags=FINAL)
                return
            time.sleep(0 if last else self.pause)

    def gather(self, r, sender):
        text = r.prompt if r.prepend else ""
        for n, token in enumerate(tokens(self.name, r.prompt, r.count), 1):
            if sender.is_cancelled():
                sender.send(flags=FINAL)
                return
            text += token
            time.sleep(self.pause if n < r.count else 0)
        sender.send(self.response(r, text, r.count, "length"), flags=FINAL)
