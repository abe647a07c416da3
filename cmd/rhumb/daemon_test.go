package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/configtest"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
	"github.com/rhumb-lb/rhumb/simulations/layout"
)

// patience bounds waiting on a loaded machine.
const patience = 30 * time.Second

// journal is what a daemon logs.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// count is how often the log says something.
func (j *journal) count(what string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.text.String(), what)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// station is an agent as people run it: a command line and files.
type station struct {
	*configtest.Files
	t    *testing.T
	at   netip.Addr
	path string
	log  *journal
}

// newStation starts a pod, and an agent in front of it that asks for keys.
func newStation(t *testing.T) *station {
	t.Helper()
	a := layout.Random().Net.Addr().As4()
	at := netip.AddrFrom4([4]byte{a[0], a[1], 7, 1})
	o := tritontest.DefaultOptions()
	o.Name, o.Addr, o.MetricsAddr = "pod-0", at.String()+":0", ""
	m := tritontest.DefaultModel("llama")
	m.PrefillPerToken, m.InterToken, m.BatchPenalty = 0, time.Millisecond, 0
	o.Models = append(o.Models, m)
	pod := tritontest.New(o)
	if err := pod.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pod.Close)

	s := &station{Files: configtest.New(t, time.Now()), t: t, at: at, log: &journal{}}
	s.Region("eu-west", "eu-west", s.Now, 90*configtest.Day, configtest.Endpoint(t, "http://"+at.String()+":8080"))
	s.Write("keys.yaml", "keys: []\n")
	s.path = s.Write("agent.yaml", strings.NewReplacer(
		"127.0.0.1:0", at.String()+":7946", "127.0.0.1:1", pod.Addr(), "127.0.0.1:8080", at.String()+":8080",
	).Replace(guarded)+"  linger: 0s\nadmin: {listen: \""+at.String()+":8088\"}\n")

	ctx, stop := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"agent", "-c", s.path, "--set", "agent.limits.drain_timeout=1s"}, io.Discard, s.log)
	}()
	t.Cleanup(func() {
		stop()
		if code := <-done; code != exitOK {
			t.Errorf("the agent ended with %d:\n%s", code, s.log)
		}
	})
	regionstest.Eventually(t, patience, func() bool {
		status, err := s.ask("", "/v2/health/ready", "")
		return err == nil && status == http.StatusOK
	}, "the agent is ready")
	return s
}

// ask sends a request with a token, by POST if there is a body.
func (s *station) ask(token, path, body string) (int, error) {
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+s.at.String()+":8080"+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, errors.Join(err, res.Body.Close())
}

// hangup sends a SIGHUP and waits until the log says what came of it.
func (s *station) hangup(what string) {
	s.t.Helper()
	before := s.log.count(what)
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		s.t.Fatal(err)
	}
	regionstest.Eventually(s.t, patience, func() bool { return s.log.count(what) > before }, "the log says "+what)
}

const (
	taken   = "msg=\"configuration reloaded\""
	refused = "msg=\"configuration not reloaded"
	ask     = `{"text_input":"hello"}`
	answer  = "/v2/models/llama/generate"
)

// TestAgentReloads runs an agent as people do, and changes its files a hundred times
// under load: keys come and go by rhumb keygen and SIGHUP, no request fails whose
// key stays, and a file that is broken changes nothing, not even the log's level. What came by the environment and by
// flags stays as it was.
func TestAgentReloads(t *testing.T) {
	t.Setenv("RHUMB_AGENT_LIMITS_BODY", "2KiB")
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	s := newStation(t)
	token := func(id string) string {
		t.Helper()
		k, err := makeKey(keyring.Key{ID: id}, s.Path("pepper"), s.Path("keys.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		return k.Token
	}
	lasting := token("lasting")
	s.hangup(taken)

	var done, failed atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if status, err := s.ask(lasting, answer, ask); err != nil || status != http.StatusOK {
					failed.Add(1)
					t.Errorf("a request under load: %d, %v", status, err)
					return
				}
				done.Add(1)
			}
		})
	}
	last := ""
	for n := range 100 {
		before := done.Load()
		last = token(fmt.Sprintf("key-%d", n))
		s.hangup(taken)
		regionstest.Eventually(t, patience, func() bool { return done.Load() >= before+3 || failed.Load() > 0 }, "requests go on")
	}
	good := s.text()
	s.Write("agent.yaml", good+"log: {level: debug}\nzzz: 1\n")
	s.hangup(refused)
	if status, err := s.ask(last, answer, ask); err != nil || status != http.StatusOK {
		t.Errorf("the last key before the broken file: %d, %v", status, err)
	}
	close(stop)
	clients.Wait()
	s.Write("agent.yaml", good)
	s.Write("keys.yaml", "keys: []\n")
	s.hangup(taken)
	if done.Load() < 300 || failed.Load() > 0 {
		t.Errorf("%d requests done, %d failed", done.Load(), failed.Load())
	}
	for what, c := range map[string]struct {
		token string
		want  int
	}{"no key": {"", 401}, "a key that is gone": {lasting, 401}} {
		if status, err := s.ask(c.token, answer, ask); err != nil || status != c.want {
			t.Errorf("%s: %d, %v; want %d", what, status, err, c.want)
		}
	}
	after := token("after")
	s.hangup(taken)
	if status, err := s.ask(after, answer, `{"text_input":"`+strings.Repeat("x", 3<<10)+`"}`); err != nil || status != http.StatusRequestEntityTooLarge {
		t.Errorf("a body beyond the environment's limit: %d, %v", status, err)
	}
	if s.log.count("zzz: no such key") == 0 || s.log.count("level=DEBUG") > 0 {
		t.Errorf("the log does not say what was wrong, or says too much:\n%s", s.log)
	}
	s.Write("agent.yaml", good+"log: {level: debug}\n")
	s.hangup(taken)
	if status, err := s.ask("", "/v2/health/ready", ""); err != nil || status != http.StatusOK {
		t.Errorf("health: %d, %v", status, err)
	}
	regionstest.Eventually(t, patience, func() bool { return s.log.count("level=DEBUG") > 0 }, "the log's level has changed")
}

// text is the configuration as it is on disk.
func (s *station) text() string {
	s.t.Helper()
	b, err := os.ReadFile(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// TestHelpExplainsSettings: a newcomer finds how to set a value without the file.
func TestHelpExplainsSettings(t *testing.T) {
	for _, daemon := range []string{"agent", "director"} {
		_, stdout, _ := rhumb(t, daemon, "--help")
		for _, want := range []string{"RHUMB_SECTION_KEY", "--set", "SIGHUP", "deploy/" + daemon + ".yaml", "rhumb check config"} {
			if !strings.Contains(stdout, want) {
				t.Errorf("rhumb %s --help does not mention %s:\n%s", daemon, want, stdout)
			}
		}
	}
}
