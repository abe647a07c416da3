// Package attrition takes the pods of a region away, one after another, while the
// region's clients stream: what is lost must not be seen. One agent and its pods run
// as processes; each pod that went is started again a little later.
package attrition

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rhumb-lb/rhumb/simulations/process"
)

// Options are what a run is made from. Start with [DefaultOptions].
type Options struct {
	// Bin is the binary that all processes run, and Dir an existing folder for their
	// keys, configuration and logs.
	Bin, Dir string
	// Fault is how pods go: kill (SIGKILL), term (SIGTERM, a drain), or stop (SIGSTOP,
	// a black hole).
	Fault string
	// Frontend is what the clients speak: stream, unary or grpc.
	Frontend string
	// Resume is whether the agent resumes streams.
	Resume bool
	// Pods is how many there are, and Slots how many sequences each runs at once.
	Pods, Slots int
	// Streams is how many the clients keep open, each of Tokens tokens that come every
	// InterToken.
	Streams, Tokens int
	InterToken      time.Duration
	// A pod goes each Every, for as long as For, and comes back after Back.
	Every, Back, For time.Duration
	// Drain is how long a pod that is told to end waits for its streams.
	Drain time.Duration
}

// DefaultOptions are nine pods that have room for 300 streams of 8 s when two of them
// are away, one of which goes every five seconds for a minute.
func DefaultOptions() Options {
	return Options{
		Fault: "kill", Frontend: "stream", Resume: true,
		Pods: 9, Slots: 48, Streams: 300, Tokens: 80, InterToken: 100 * time.Millisecond,
		Every: 5 * time.Second, Back: 2 * time.Second, For: time.Minute, Drain: 30 * time.Second,
	}
}

// Report is how a run went.
type Report struct {
	Gone    int // pods that went
	Streams int // that ended
	Resumed int // that went on at another pod
	// Errors are streams that were refused or broke, Typed those that ended with the
	// event that says so, and Wrong those whose text was not the model's.
	Errors, Typed, Wrong int
	First                []error       // the first few of them
	Slowest              time.Duration // between two events of a stream
	Took                 time.Duration
}

// String is the report in a line.
func (r Report) String() string {
	return fmt.Sprintf("%d pods went, %d streams ended, %d resumed; %d errors, %d cut with a typed event, %d with another text; longest pause %v",
		r.Gone, r.Streams, r.Resumed, r.Errors, r.Typed, r.Wrong, r.Slowest.Round(10*time.Millisecond))
}

// region is the processes of a run.
type region struct {
	opts    Options
	pods    []*process.Process
	agent   *process.Process
	gateway netip.AddrPort
	admin   netip.AddrPort
	strays  chan *process.Stray
	// progress is told what goes, and what the agent said of it.
	progress io.Writer
}

// Run runs it to its end. What goes wrong with streams is in the report; the error is
// of a run that did not come about.
func Run(ctx context.Context, o Options, progress io.Writer) (Report, error) {
	r, err := open(ctx, o, progress)
	if err != nil {
		return Report{}, err
	}
	report, err := r.run(ctx)
	return report, errors.Join(err, r.close(ctx))
}

// firstPort is where the ports of a run begin. The system gives out higher ones.
const firstPort = 21000

// anywhere is an address of loopback that nobody else is likely to use.
func anywhere() netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(254)), byte(rand.IntN(256)), 1})
}

// open writes the files and starts the processes.
func open(ctx context.Context, o Options, progress io.Writer) (*region, error) {
	r := &region{opts: o, progress: progress, strays: make(chan *process.Stray, o.Pods+1)}
	host, port := anywhere(), uint16(firstPort)
	next := func() netip.AddrPort {
		port++
		return netip.AddrPortFrom(host, port)
	}
	c := setting{Options: o, Gateway: next(), Admin: next(), Gossip: next()}
	r.gateway, r.admin = c.Gateway, c.Admin
	for i := range o.Pods {
		p := podSetting{Name: fmt.Sprintf("pod-%d", i), HTTP: next(), Metrics: next(), GRPC: next()}
		c.Hosts = append(c.Hosts, p)
		r.pods = append(r.pods, r.process(p.Name, "pod", "--name", p.Name, "--listen", p.HTTP.String(),
			"--metrics-listen", p.Metrics.String(), "--grpc", p.GRPC.String(), "--slots", fmt.Sprint(o.Slots),
			"--inter-token", o.InterToken.String(), "--exit-timeout", o.Drain.String()))
	}
	r.agent = r.process("agent", "agent", "-c", r.path("agent.yaml"))
	if err := r.write(ctx, c); err != nil {
		return nil, err
	}
	for _, p := range append(r.pods, r.agent) {
		if err := p.Start(); err != nil {
			return nil, errors.Join(err, r.close(ctx))
		}
	}
	return r, nil
}

func (r *region) process(name string, args ...string) *process.Process {
	return &process.Process{Name: name, Bin: r.opts.Bin, Args: args, Log: r.path(name + ".log"), Failed: func(s *process.Stray) {
		select {
		case r.strays <- s:
		default:
		}
	}}
}

func (r *region) path(name string) string { return filepath.Join(r.opts.Dir, name) }

// setting is what the agent's configuration is made from.
type setting struct {
	Options
	Gateway, Admin, Gossip netip.AddrPort
	Hosts                  []podSetting
}

type podSetting struct {
	Name                string
	HTTP, Metrics, GRPC netip.AddrPort
}

// config is the agent's configuration.
var config = template.Must(template.New("agent").Parse(`
log: {level: debug}
admin: {listen: "{{.Admin}}"}
gossip: {bind: "{{.Gossip}}", label: attrition, key_file: gossip.key}
fleet: {ca_file: fleet.pem, cert_file: here.pem, key_file: here.key}
agent:
  name: agent-1
  region: here
  location: {lat: 0, lon: 0}
  endpoints: [{url: "http://{{.Gateway}}", addresses: [{{.Gateway.Addr}}]}]
  listen: ["{{.Gateway}}"]
  models: [{name: llama, slots: {{.Slots}}, profile: vllm, resume: {{if .Resume}}on{{else}}off{{end}}}]
  discovery:
    - type: static
      pods:
{{- range .Hosts}}
        - {name: {{.Name}}, http: "{{.HTTP}}", metrics: "{{.Metrics}}", grpc: "{{.GRPC}}"}
{{- end}}
  linger: 0s
  limits: {drain_timeout: 1s}
`))

// write makes keys and configuration.
func (r *region) write(ctx context.Context, c setting) error {
	for _, args := range [][]string{
		{"keygen", "fleet"}, {"keygen", "gossip"},
		{"keygen", "region", "here", "--endpoint", fmt.Sprintf("http://%s=%s", c.Gateway, c.Gateway.Addr())},
	} {
		if err := process.Run(ctx, r.opts.Dir, r.opts.Bin, args...); err != nil {
			return err
		}
	}
	var text strings.Builder
	if err := config.Execute(&text, c); err != nil {
		return err
	}
	return os.WriteFile(r.path("agent.yaml"), []byte(text.String()), 0o600)
}

// words prints what the agent says of streams that it could not go on with.
func (r *region) words() {
	text, err := os.ReadFile(r.agent.Log)
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "ended before its time") {
			_, _ = io.WriteString(r.progress, line)
		}
	}
}

// close ends all processes.
func (r *region) close(ctx context.Context) error {
	r.words()
	ctx = context.WithoutCancel(ctx)
	var g errgroup.Group
	for _, p := range append([]*process.Process{r.agent}, r.pods...) {
		g.Go(func() error {
			_ = p.Kill() // it may have ended
			return nil
		})
	}
	_ = g.Wait()
	select {
	case s := <-r.strays:
		return s
	default:
		return ctx.Err()
	}
}
