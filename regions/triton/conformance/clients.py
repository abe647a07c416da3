"""Asks a server with the official Triton clients, as a program of its users would.

clients.py --http HOST:PORT [--grpc HOST:PORT] [--gateway]

The server has the models of this folder's repository. --gateway leaves out what a
gateway keeps to itself: the repository and the statistics of single pods. It prints
a line for each check, and ends with status 1 if one failed.
"""

import argparse
import http.client
import json
import queue
import sys
import traceback

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

PATIENCE = 20  # seconds, for every answer
HELLO = "Hello knot jib tide"  # what trt says to "Hello" in three tokens
STREAM = [" rigging", " helm", " aft"]  # and llama

failed = 0


def check(name, run):
    global failed
    try:
        run()
        print("ok    ", name)
    except Exception:
        failed += 1
        print("FAILED", name)
        traceback.print_exc(limit=3, file=sys.stdout)


def equal(got, want):
    if got != want:
        raise AssertionError(f"{got!r}, want {want!r}")


def refuses(run, *words):
    """run must be refused, with these words in the error."""
    try:
        run()
    except InferenceServerException as e:
        for word in words:
            if word not in str(e):
                raise AssertionError(f"refused with {e}, without {word!r}")
        return
    raise AssertionError("it was not refused")


def tensor(module, name, value, datatype, **how):
    array = np.array(value, dtype={"BYTES": object, "INT32": np.int32, "BOOL": bool}[datatype])
    out = module.InferInput(name, list(array.shape), datatype)
    out.set_data_from_numpy(array, **how)
    return out


def prompt(module, tokens, **how):
    return [tensor(module, "text_input", ["Hello"], "BYTES", **how), tensor(module, "max_tokens", [tokens], "INT32", **how)]


def said(result):
    text = result.as_numpy("text_output")[0]
    return text if isinstance(text, str) else text.decode()  # JSON holds text, the binary form bytes


def by_http(address, gateway):
    c = httpclient.InferenceServerClient(address, connection_timeout=PATIENCE, network_timeout=PATIENCE)
    check("http: live and ready", lambda: equal([c.is_server_live(), c.is_server_ready()], [True, True]))
    check("http: a model is ready", lambda: equal([c.is_model_ready("llama"), c.is_model_ready("nope")], [True, False]))
    check("http: metadata of a model", lambda: equal(c.get_model_metadata("llama")["inputs"][0]["name"], "text_input"))
    check("http: configuration", lambda: equal(c.get_model_config("llama")["model_transaction_policy"], {"decoupled": True}))
    if not gateway:
        check("http: metadata of the server", lambda: equal(c.get_server_metadata()["name"], "triton"))
        check("http: statistics", lambda: equal(c.get_inference_statistics("llama")["model_stats"][0]["name"], "llama"))
        check("http: index", lambda: equal("llama" in [m["name"] for m in c.get_model_repository_index()], True))

    def infer(binary_in, binary_out, **more):
        outputs = [httpclient.InferRequestedOutput("text_output", binary_data=binary_out)]
        return c.infer("trt", prompt(httpclient, 3, binary_data=binary_in), outputs=outputs, **more)

    for binary_in in (False, True):
        for binary_out in (False, True):
            name = f"http: infer, {'binary' if binary_in else 'JSON'} in, {'binary' if binary_out else 'JSON'} out"
            check(name, lambda i=binary_in, o=binary_out: equal(said(infer(i, o)), HELLO))
    check("http: infer, as it comes", lambda: equal(said(c.infer("trt", prompt(httpclient, 3))), HELLO))
    check("http: infer, id", lambda: equal(infer(False, False, request_id="42").get_response()["id"], "42"))
    check("http: infer, compressed", lambda: equal(said(infer(True, False, request_compression_algorithm="gzip")), HELLO))
    check("http: infer, compressed answer", lambda: equal(said(infer(True, False, response_compression_algorithm="gzip")), HELLO))
    check("http: infer, async", lambda: equal(said(c.async_infer("trt", prompt(httpclient, 3)).get_result(timeout=PATIENCE)), HELLO))
    check("http: infer, unknown model", lambda: refuses(lambda: c.infer("nope", prompt(httpclient, 3))))
    check("http: infer, decoupled model", lambda: refuses(lambda: c.infer("llama", prompt(httpclient, 3)[:1]), "decoupled"))
    check("http: infer, missing input", lambda: refuses(lambda: c.infer("trt", prompt(httpclient, 3)[:1]), "missing required input"))
    c.close()

    # The client library has no generate: its users send these requests themselves.
    check("http: generate", lambda: equal(json.loads(posted(address, "generate", {"max_tokens": 3}))["text_output"], "Hello" + "".join(STREAM)))
    check("http: generate_stream", lambda: equal(events(posted(address, "generate_stream", {"max_tokens": 3, "stream": True})), STREAM))


def posted(address, verb, more):
    conn = http.client.HTTPConnection(address, timeout=PATIENCE)
    conn.request("POST", f"/v2/models/llama/{verb}", json.dumps({"text_input": "Hello", **more}), {"Content-Type": "application/json"})
    response = conn.getresponse()
    body = response.read().decode()
    conn.close()
    equal(response.status, 200)
    return body


def events(body):
    lines = [line for line in body.split("\n") if line]
    return [json.loads(line.removeprefix("data: "))["text_output"] for line in lines]


def by_grpc(address, gateway):
    c = grpcclient.InferenceServerClient(address)
    within = {"client_timeout": PATIENCE}
    check("grpc: live and ready", lambda: equal([c.is_server_live(**within), c.is_server_ready(**within)], [True, True]))
    check("grpc: a model is ready", lambda: equal(c.is_model_ready("llama", **within), True))
    check("grpc: metadata of a model", lambda: equal(c.get_model_metadata("llama", **within).inputs[0].name, "text_input"))
    check("grpc: configuration", lambda: equal(c.get_model_config("llama", **within).config.model_transaction_policy.decoupled, True))
    if not gateway:
        check("grpc: metadata of the server", lambda: equal(c.get_server_metadata(**within).name, "triton"))
        check("grpc: statistics", lambda: equal(c.get_inference_statistics("llama", **within).model_stats[0].name, "llama"))
        check("grpc: index", lambda: equal("llama" in [m.name for m in c.get_model_repository_index(**within).models], True))
    check("grpc: infer", lambda: equal(said(c.infer("trt", prompt(grpcclient, 3), **within)), HELLO))
    check("grpc: infer, id", lambda: equal(c.infer("trt", prompt(grpcclient, 3), request_id="42", **within).get_response().id, "42"))
    check("grpc: infer, compressed", lambda: equal(said(c.infer("trt", prompt(grpcclient, 3), compression_algorithm="gzip", **within)), HELLO))
    check("grpc: infer, unknown model", lambda: refuses(lambda: c.infer("nope", prompt(grpcclient, 3), **within)))
    check("grpc: infer, decoupled model", lambda: refuses(lambda: c.infer("llama", prompt(grpcclient, 3)[:1], **within), "decoupled"))
    check("grpc: infer, missing input", lambda: refuses(lambda: c.infer("trt", prompt(grpcclient, 3)[:1], **within), "missing required input"))
    c.close()
    check("grpc: stream", lambda: equal(streamed(address, ["42"]), [("42", t) for t in STREAM] + [("42", None)]))
    check("grpc: stream, several requests", lambda: equal(
        sorted(streamed(address, ["1", "2", "3"]), key=lambda e: e[0]),
        [(i, t) for i in "123" for t in STREAM + [None]]))
    check("grpc: stream, cancelled", lambda: cancelled(address))


def ask(c, model, request_id, tokens):
    inputs = [tensor(grpcclient, "text_input", ["Hello"], "BYTES"), tensor(grpcclient, "stream", [True], "BOOL")]
    c.async_stream_infer(model, inputs, request_id=request_id, enable_empty_final_response=True, parameters={"max_tokens": tokens})


def streamed(address, ids):
    """The tokens of some requests on one stream, None for the last of each."""
    answers = queue.Queue()
    c = grpcclient.InferenceServerClient(address)
    c.start_stream(callback=lambda result, error: answers.put((result, error)), stream_timeout=PATIENCE)
    for i in ids:
        ask(c, "llama", i, 3)
    out, left = [], len(ids)
    while left:
        result, error = answers.get(timeout=PATIENCE)
        if error:
            raise error
        response = result.get_response()
        if response.outputs:
            out.append((response.id, said(result)))
        if response.parameters["triton_final_response"].bool_param:
            out.append((response.id, None))
            left -= 1
    c.stop_stream()
    c.close()
    return out


def cancelled(address):
    """A stream that would take six seconds ends when it is cancelled."""
    answers = queue.Queue()
    c = grpcclient.InferenceServerClient(address)
    c.start_stream(callback=lambda result, error: answers.put((result, error)))
    ask(c, "slow", "42", 60)
    _, error = answers.get(timeout=PATIENCE)
    equal(error, None)
    c.stop_stream(cancel_requests=True)
    while not error:
        _, error = answers.get(timeout=PATIENCE)
    if "Locally cancelled" not in str(error):
        raise AssertionError(f"the stream ended with {error}")
    c.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--http")
    parser.add_argument("--grpc")
    parser.add_argument("--gateway", action="store_true")
    args = parser.parse_args()
    if args.http:
        by_http(args.http, args.gateway)
    if args.grpc:
        by_grpc(args.grpc, args.gateway)
    sys.exit(1 if failed else 0)


main()
