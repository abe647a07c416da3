package conformance

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

var tritonDir = flag.String("triton", "", "`folder` that setup has made, to run a real server; empty compares with what one said before")

// target is a server under test, real or simulated.
type target struct {
	http, metrics, grpc string

	// terminate sends SIGTERM; exited is then closed when the server is gone.
	terminate func()
	exited    <-chan struct{}
	// failInBand makes streams fail after so many responses until the function that
	// it returns is called. A real server's model is told so by the request.
	failInBand func(responses int) (undo func())
	// failNext makes requests fail before their first response until the function
	// that it returns is called, likewise.
	failNext func() (undo func())
	// status is how the server exited, after exited.
	status func() string
}

// models are the simulator's names for the repository's models.
func models() []tritontest.Model {
	quick := func(name string, change func(*tritontest.Model)) tritontest.Model {
		m := tritontest.DefaultModel(name)
		m.PrefillPerToken, m.InterToken, m.BatchPenalty = 0, 0, 0
		change(&m)
		return m
	}
	coupled := func(m *tritontest.Model) { m.Flavour, m.Coupled = tritontest.TRTLLM, true }
	return []tritontest.Model{
		quick("llama", func(*tritontest.Model) {}),
		quick("streamed", func(*tritontest.Model) {}),
		quick("slow", func(m *tritontest.Model) { m.InterToken = 100 * time.Millisecond }),
		quick("spare", func(m *tritontest.Model) { m.Unloaded = true }),
		quick("trt", coupled),
		quick("counted", coupled),
		quick("queue", func(m *tritontest.Model) {
			coupled(m)
			m.Slots, m.QueueLimit, m.QueueTimeout, m.InterToken = 1, 1, 300*time.Millisecond, 100*time.Millisecond
		}),
	}
}

// simulate starts a simulated server.
func simulate(t *testing.T, exitTimeout time.Duration) target {
	t.Helper()
	o := tritontest.DefaultOptions()
	o.Models, o.ExitTimeout = models(), exitTimeout
	pod := tritontest.New(o)
	if err := pod.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pod.Close)
	exited := make(chan struct{})
	var result error
	return target{
		http: pod.Addr(), metrics: pod.MetricsAddr(), grpc: pod.GRPCAddr(),
		terminate: func() {
			go func() {
				defer close(exited)
				result = pod.Shutdown(context.Background())
			}()
		},
		exited: exited,
		failInBand: func(n int) func() {
			pod.FailInBand(1, n)
			return func() { pod.FailInBand(0, 1) }
		},
		failNext: func() func() {
			pod.ErrorRate(1000)
			return func() { pod.ErrorRate(0) }
		},
		status: func() string {
			if errors.Is(result, tritontest.ErrExitTimeout) {
				return "exit timeout"
			}
			return fmt.Sprint("clean ", result == nil)
		},
	}
}

// launch starts a real server on free ports. It ends with the test, or after ten
// minutes by itself.
func launch(t *testing.T, exitTimeout time.Duration) target {
	t.Helper()
	ports := freePorts(t, 3)
	memory := "conformance_" + ports[0] + "_" // which a killed server leaves behind
	tg := target{http: "127.0.0.1:" + ports[0], metrics: "127.0.0.1:" + ports[1], grpc: "127.0.0.1:" + ports[2]}
	args := []string{
		"--foreground", "--kill-after=60", "600", filepath.Join(*tritonDir, "tritonserver"),
		"--model-repository=" + repository(t), "--model-control-mode=explicit", "--disable-auto-complete-config",
		"--http-address=127.0.0.1", "--http-port=" + ports[0],
		"--metrics-address=127.0.0.1", "--metrics-port=" + ports[1],
		"--grpc-address=127.0.0.1", "--grpc-port=" + ports[2],
		fmt.Sprintf("--exit-timeout-secs=%d", int(exitTimeout.Seconds())),
		"--backend-config=python,shm-region-prefix-name=" + memory,
	}
	for _, name := range []string{"llama", "streamed", "slow", "trt", "counted", "queue"} {
		args = append(args, "--load-model="+name)
	}
	cmd := exec.Command("timeout", args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the backends' processes are in it, too
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // how it exited is in ProcessState
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may be gone
		<-exited
		left, _ := filepath.Glob("/dev/shm/" + memory + "*") // the pattern is well formed
		for _, file := range left {
			_ = os.Remove(file)
		}
		if t.Failed() {
			t.Logf("the server's log ends with:\n%s", tail(log.String(), 4000))
		}
	})
	tg.exited = exited
	tg.terminate = func() { _ = cmd.Process.Signal(syscall.SIGTERM) }
	tg.failInBand, tg.failNext = func(int) func() { return func() {} }, func() func() { return func() {} }
	tg.status = func() string {
		switch {
		case strings.Contains(log.String(), "Exit timeout expired. Exiting immediately."):
			return "exit timeout"
		default:
			return fmt.Sprint("clean ", cmd.ProcessState.Success())
		}
	}
	await(t, tg)
	return tg
}

func tail(text string, n int) string { return text[max(0, len(text)-n):] }

// await waits until the server is ready.
func await(t *testing.T, tg target) {
	t.Helper()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(3 * patience); time.Now().Before(deadline); {
		resp, err := client.Get("http://" + tg.http + "/v2/health/ready")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tg.exited:
			t.Fatal("the server exited at its start")
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatal("the server is not ready")
}

// freePorts finds ports that nobody listens on; somebody may be faster than the
// server, which then fails to start and says so.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var ports []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		ports = append(ports, port)
	}
	return ports
}

// repository lays out a model repository: the configurations, and in each version
// the one model that can be all of them.
func repository(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS("repository")); err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile("model.py")
	if err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		version := filepath.Join(root, name.Name(), "1")
		if err := os.Mkdir(version, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(version, "model.py"), code, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}
