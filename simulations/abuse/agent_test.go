package abuse

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// tests are all tests with the removal of what they share.
type tests struct{ *testing.M }

// Run runs them.
func (t tests) Run() int {
	dir, err := os.MkdirTemp("", "rhumb-abuse-")
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	built.dir = dir
	return t.M.Run()
}

// built is the binary that all tests run, and the keys that all agents have.
var built struct {
	sync.Once
	dir string
	err error
}

func build() error {
	bin := filepath.Join(built.dir, "rhumb")
	for _, args := range [][]string{
		{"go", "build", "-o", bin, "../../cmd/rhumb"},
		{bin, "keygen", "fleet"}, {bin, "keygen", "gossip"},
		{bin, "keygen", "region", "here", "--endpoint", "http://127.0.0.1:80=127.0.0.1"},
	} {
		cmd := exec.CommandContext(context.Background(), args[0], args[1:]...)
		if args[0] == bin {
			cmd.Dir = built.dir
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
	}
	return nil
}

// agent is an agent as a process.
type agent struct {
	addr, admin string
	pid         int
}

// configuration has an address that nobody clients by; where the gateway listens
// comes by flag.
const configuration = `
gossip: {bind: "%s", seeds: ["%[1]s"], key_file: gossip.key}
fleet: {ca_file: fleet.pem, cert_file: here.pem, key_file: here.key}
admin: {listen: "%s"}
agent:
  name: agent-1
  region: here
  location: {lat: 0, lon: 0}
  endpoints: [{url: "http://127.0.0.1:80", addresses: [127.0.0.1]}]
  models: [{name: llama, slots: 4000}]
  discovery: [{type: static, pods: [{name: a, http: "%s"}]}]
  linger: 0s
  listen: ["%s"]
  limits:
    body: %dB
    header: %dB
    header_timeout: %v
    idle_timeout: %v
    write_timeout: %v
    drain_timeout: 1s
    connections: %d
    connections_per_client: %d
    connection_age: %v
`

func startAgent(t *testing.T, pod string, l limits) *agent {
	t.Helper()
	built.Do(func() { built.err = build() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	a := &agent{addr: free(t), admin: free(t)}
	file := filepath.Join(built.dir, strings.NewReplacer("/", "-", ":", "-").Replace(t.Name()+a.addr)+".yaml")
	text := fmt.Sprintf(configuration, free(t), a.admin, pod, a.addr, l.body, l.head.Size, l.head.Time, l.head.Idle, l.clientStall,
		l.connections.Connections, l.connections.PerClient, l.connections.Age)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(file + ".log")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), filepath.Join(built.dir, "rhumb"), "agent", "-c", file)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = log.Close()
	a.pid = cmd.Process.Pid
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		text, _ := os.ReadFile(file + ".log")
		if err != nil || strings.Contains(string(text), "panic") || strings.Contains(string(text), "goroutine ") {
			t.Errorf("the agent ended with %v: %s", err, text[max(0, len(text)-2000):])
		}
	})
	eventually(t, func() bool {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.addr+"/v2/health/ready", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Close = true
		res, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	}, "the agent is ready")
	return a
}

// free is an address that was free a moment ago.
func free(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// proc reads a file of the process's in /proc.
func (a *agent) proc(name string) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", a.pid, name))
	if err != nil {
		return "" // it is gone, which its end tells
	}
	return string(text)
}

// memory is a figure of /proc/PID/status in MiB.
func (a *agent) memory(figure string) float64 {
	for line := range strings.Lines(a.proc("status")) {
		if rest, ok := strings.CutPrefix(line, figure+":"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024
		}
	}
	return 0
}

// begin forgets the peak and tells what is held now.
func (a *agent) begin() float64 {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", a.pid), []byte("5"), 0o200)
	return a.memory("VmRSS")
}

func (a *agent) peak() float64 { return a.memory("VmHWM") }

// cpu is the time on a processor in seconds, of which the kernel counts
// hundredths.
func (a *agent) cpu() float64 {
	_, rest, _ := strings.Cut(a.proc("stat"), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

// metrics are the agent's, as it shows them.
func (a *agent) metrics(t *testing.T) string {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+a.admin+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
