package conformance

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestClients lets the official clients ask servers, directly and through an
// agent's gateway in front of them.
func TestClients(t *testing.T) {
	if *tritonDir == "" {
		t.Skip("the official clients are in the folder of -triton: make test-triton")
	}
	rhumb := build(t)
	for name, start := range map[string]func(*testing.T, time.Duration) target{"simulated": simulate, "real": launch} {
		t.Run(name, func(t *testing.T) {
			tg := start(t, 10*time.Second)
			gateway := agent(t, rhumb, tg)
			t.Run("directly", func(t *testing.T) {
				clients(t, "--http="+tg.http)
				clients(t, "--grpc="+tg.grpc)
			})
			t.Run("gateway, HTTP", func(t *testing.T) { clients(t, "--gateway", "--http="+gateway) })
			t.Run("gateway, gRPC", func(t *testing.T) { clients(t, "--gateway", "--grpc="+gateway) })
		})
	}
}

// clients runs the script, and shows what it checked.
func clients(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"120", filepath.Join(*tritonDir, "venv", "bin", "python"), "clients.py"}, args...)
	out, err := exec.Command("timeout", args...).CombinedOutput()
	checked := strings.Count("\n"+string(out), "\nok ")
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
		return
	}
	t.Logf("%d checks", checked)
}

func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "rhumb")
	if out, err := exec.Command("go", "build", "-o", binary, "../../../cmd/rhumb").CombinedOutput(); err != nil {
		t.Fatalf("build rhumb: %v\n%s", err, out)
	}
	return binary
}

// agent runs an agent with the one pod, as a region of its own, and returns the
// address of its gateway.
func agent(t *testing.T, rhumb string, tg target) string {
	t.Helper()
	dir := t.TempDir()
	ports := freePorts(t, 3)
	gateway := "127.0.0.1:" + ports[0]
	run := func(args ...string) {
		cmd := exec.Command(rhumb, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("rhumb %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("keygen", "fleet")
	run("keygen", "gossip")
	run("keygen", "region", "here", "--endpoint", "http://"+gateway+"=127.0.0.1")
	pod := fmt.Sprintf("{name: pod-1, http: %q, metrics: %q, grpc: %q}", tg.http, tg.metrics, tg.grpc)
	config := fmt.Sprintf(`admin: {listen: "127.0.0.1:%s"}
gossip: {bind: "127.0.0.1:%s", label: conformance, key_file: gossip.key}
fleet: {ca_file: fleet.pem, cert_file: here.pem, key_file: here.key}
agent:
  name: agent-1
  region: here
  location: {lat: 53.35, lon: -6.26}
  endpoints: [{url: "http://%s", addresses: [127.0.0.1]}]
  models: [{name: llama, slots: 8}, {name: slow, slots: 8}, {name: trt, slots: 8}]
  discovery: [{type: static, pods: [%s]}]
  listen: ["%s"]
`, ports[1], ports[2], gateway, pod, gateway)
	file := filepath.Join(dir, "agent.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("timeout", "--foreground", "300", rhumb, "agent", "--config", file)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-exited
		if t.Failed() {
			t.Logf("the agent's log ends with:\n%s", tail(log.String(), 3000))
		}
	})
	await(t, target{http: gateway, exited: exited})
	return gateway
}
