package conformance

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

// loadCases are about what happens when there is more to do than room, and about
// clients that leave.
var loadCases = []testcase{
	{"overload: infer", func(t *testing.T, tg target) string {
		return crowd(t, tg, "infer", inputs(hello, `{"name":"max_tokens","shape":[1],"datatype":"INT32","data":[12]}`))
	}},
	{"overload: generate", func(t *testing.T, tg target) string {
		return crowd(t, tg, "generate", `{"id":"42","text_input":"Hello","max_tokens":12}`)
	}},
	{"overload: generate_stream", func(t *testing.T, tg target) string {
		return crowd(t, tg, "generate_stream", `{"text_input":"Hello","max_tokens":12}`)
	}},
	{"leaving: a stream", func(t *testing.T, tg target) string { return leave(t, tg, "generate_stream", `,"stream":true`) }},
	{"leaving: generate", func(t *testing.T, tg target) string { return leave(t, tg, "generate", ``) }},
}

// crowd sends three requests to a model that runs one and lets one wait for 300 ms.
func crowd(t *testing.T, tg target, verb, body string) string {
	runs, waits, refused := dial(t, tg.http), dial(t, tg.http), dial(t, tg.http)
	request := post("/v2/models/queue/"+verb, body)
	const waiting = `nv_inference_pending_request_count{model="queue",version="1"} `
	runs.send(request)
	// It runs when it has come and nothing is pending.
	<-time.After(200 * time.Millisecond)
	until(t, tg, waiting+"0")
	waits.send(request)
	until(t, tg, waiting+"1")
	refused.request(request)
	refused.alive()
	waits.answer("POST")
	waits.alive()
	runs.answer("POST")
	runs.alive()
	return "runs:\n" + runs.said.String() + "waits:\n" + waits.said.String() + "refused:\n" + refused.said.String()
}

// until waits until the metrics have a line.
func until(t *testing.T, tg target, line string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if strings.Contains(fetch(t, "http://"+tg.metrics+"/metrics"), line+"\n") {
			return
		}
	}
	t.Errorf("the metrics never had %s", line)
}

// leave closes the connection under a request that would take six seconds, and
// tells how the server counts it and whether it went on regardless.
func leave(t *testing.T, tg target, verb, more string) string {
	before := metricsOf(t, tg, "slow")
	w := dial(t, tg.http)
	w.send(post("/v2/models/slow/"+verb, `{"text_input":"a","max_tokens":60`+more+`}`))
	if verb == "generate_stream" {
		if _, _, err := w.head(); err != nil {
			t.Fatal(err)
		}
	} else {
		<-time.After(300 * time.Millisecond) // nothing tells that it runs
	}
	_ = w.conn.Close()
	left := time.Now()
	for ; time.Since(left) < patience; <-time.After(20 * time.Millisecond) {
		if after := metricsOf(t, tg, "slow"); after != before {
			when := "it went on to the end"
			if time.Since(left) < 3*time.Second {
				when = "it stopped"
			}
			return when + "\n" + strings.Join(changed(before, after), "\n") + "\n"
		}
	}
	t.Error("it was never counted")
	return ""
}

// changed lists the counters of requests that differ.
func changed(before, after string) []string {
	var out []string
	for _, line := range strings.Split(after, "\n") {
		if strings.HasPrefix(line, "nv_inference_request_") && !strings.Contains(line, "duration") && !strings.Contains(before, line) {
			name, _, _ := strings.Cut(line, " ")
			out = append(out, "more "+name)
		}
	}
	return out
}

// TestShutdown compares what a server does between SIGTERM and its end.
func TestShutdown(t *testing.T) {
	for name, run := range map[string]struct {
		timeout time.Duration
		script  func(*testing.T, target) string
	}{
		"streams end":       {30 * time.Second, streamsEnd},
		"streams are cut":   {2 * time.Second, streamsAreCut},
		"idle connections":  {2 * time.Second, idleConnections},
		"nothing to finish": {30 * time.Second, func(t *testing.T, tg target) string { return exit(t, tg, "") }},
	} {
		t.Run(name, func(t *testing.T) {
			simulated := run.script(t, simulate(t, run.timeout))
			if *tritonDir == "" {
				t.Log("simulated only: -triton compares with a real server")
				return
			}
			if asked := run.script(t, launch(t, run.timeout)); asked != simulated {
				t.Errorf("a real Triton says otherwise:\n%s\nall of it:\n%s", diff(asked, simulated), asked)
			}
		})
	}
}

func streamsEnd(t *testing.T, tg target) string {
	idle, busy := dial(t, tg.http), dial(t, tg.http)
	idle.request(get("/v2/health/live"))
	busy.send(post("/v2/models/slow/generate_stream", `{"text_input":"a","stream":true,"max_tokens":30}`))
	if _, _, err := busy.head(); err != nil {
		t.Fatal(err)
	}
	tg.terminate()
	refusing(t, tg)
	idle.note("after SIGTERM, on a connection from before:")
	idle.request(get("/v2/health/live"))
	idle.request(get("/v2/health/ready"))
	idle.request(get("/v2/models/llama/ready"))
	idle.request(post(generate, `{"text_input":"a","max_tokens":2}`))
	idle.note("the metrics port: %s", strings.SplitN(fetch(t, "http://"+tg.metrics+"/metrics"), "\n", 2)[0])
	idle.note("the gRPC port: %s", rpc("", func(r *remote) { r.note(r.ServerReady(r.ctx(), &pb.ServerReadyRequest{})) }).run(t, tg))
	busy.ended(busy.body(map[string]string{"transfer-encoding": "chunked"}))
	_, _ = idle.conn.Close(), busy.conn.Close()
	return exit(t, tg, idle.said.String()+"the stream:\n"+busy.said.String())
}

func streamsAreCut(t *testing.T, tg target) string {
	w := dial(t, tg.http)
	w.send(post("/v2/models/slow/generate_stream", `{"text_input":"a","stream":true,"max_tokens":60}`))
	if _, _, err := w.head(); err != nil {
		t.Fatal(err)
	}
	tg.terminate()
	said := "the stream ended whole"
	for {
		if data, err := w.chunk(); err != nil {
			said = "the stream was cut"
			break
		} else if data == "" {
			break
		}
	}
	return exit(t, tg, said+"\n")
}

func idleConnections(t *testing.T, tg target) string {
	w := dial(t, tg.http)
	w.request(get("/v2/health/live"))
	tg.terminate()
	refusing(t, tg)
	w.request(get("/v2/health/ready"))
	_, err := w.read.ReadByte()
	w.ended(err)
	return exit(t, tg, w.said.String())
}

// refusing waits until new connections are closed without a byte.
func refusing(t *testing.T, tg target) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		conn, err := net.DialTimeout("tcp", tg.http, time.Second)
		if err != nil {
			t.Fatalf("a draining server takes the connection: %v", err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(conn, get("/v2/health/ready"))
		n, err := conn.Read(make([]byte, 1))
		_ = conn.Close()
		if n == 0 && err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return
		}
	}
	t.Error("a draining server served new connections")
}

// exit waits for the server's end, asking it to if nobody has.
func exit(t *testing.T, tg target, said string) string {
	t.Helper()
	if said == "" {
		tg.terminate()
	}
	select {
	case <-tg.exited:
	case <-time.After(2 * patience):
		t.Fatal("the server did not exit")
	}
	return said + "exit: " + tg.status() + "\n"
}
