package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is one daemon. It may live several times.
type process struct {
	name string
	bin  string
	args []string
	log  string // file for its output, of all its lives

	mu     sync.Mutex
	cmd    *exec.Cmd     // nil while it does not run
	ended  chan struct{} // closed when cmd has ended
	asked  bool          // its end was asked for
	failed func(*stray)  // told of ends that nobody asked for
}

// stray is the end of a process that nobody asked for.
type stray struct {
	name  string
	state string // how it ended: its exit status or the signal
	words string // the last of its log
}

// Error says what ended, how, and with which words.
func (s *stray) Error() string {
	return fmt.Sprintf("%s ended by itself (%s): %s", s.name, s.state, s.words)
}

// start starts the process, if it does not run, and returns at once.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return nil
	}
	out, err := os.OpenFile(p.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }() // the process has its own
	//nolint:noctx // it outlives whatever starts it, and is ended by signals
	cmd := exec.Command(p.bin, p.args...)
	cmd.Stdout, cmd.Stderr = out, out
	// In a group of its own a Ctrl-C is the parent's to pass on, in its order; and
	// should the parent be killed, the process goes with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended, p.asked = cmd, ended, false
	go p.follow(cmd, ended)
	return nil
}

// follow waits for the end of one life.
func (p *process) follow(cmd *exec.Cmd, ended chan struct{}) {
	_ = cmd.Wait() // how it ended is in its state
	p.mu.Lock()
	asked := p.asked
	p.cmd = nil
	p.mu.Unlock()
	if !asked {
		p.failed(&stray{p.name, cmd.ProcessState.String(), p.lastWords()})
	}
	close(ended)
}

// lastWords are the ends of what it wrote.
func (p *process) lastWords() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	const enough = 600 // bytes: some lines
	text = bytes.TrimSpace(text)
	if cut := len(text) - enough; cut > 0 {
		text = text[cut:]
		text = text[bytes.IndexByte(text, '\n')+1:] // whole ones, unless it is one long one
	}
	return string(text)
}

// pid is its process ID, 0 if it does not run.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// errNotRunning is the error for a signal to a process that does not run.
var errNotRunning = errors.New("does not run")

// signal sends a signal. One that ends the process must be said to be asked for.
func (p *process) signal(s syscall.Signal, asked bool) (ended <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil, fmt.Errorf("%s: %w", p.name, errNotRunning)
	}
	p.asked = p.asked || asked
	if err := p.cmd.Process.Signal(s); err != nil {
		return nil, fmt.Errorf("signal %s: %w", p.name, err)
	}
	return p.ended, nil
}

// kill is kill -9; it returns when the process has ended.
func (p *process) kill() error {
	ended, err := p.signal(syscall.SIGKILL, true)
	if err != nil {
		return err
	}
	<-ended
	return nil
}

// patience bounds a graceful end: an agent's streams may take as long as their
// example's drain_timeout of 30 s.
const patience = 40 * time.Second

// stop is kill -TERM; it waits for the graceful end, and kills a process that
// has none.
func (p *process) stop(ctx context.Context) error {
	ended, err := p.signal(syscall.SIGTERM, true)
	if errors.Is(err, errNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-ended:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return errors.Join(fmt.Errorf("%s did not end within %v of SIGTERM: %s", p.name, patience, p.lastWords()), p.kill())
}

// run runs a command to its end in a folder.
func run(ctx context.Context, dir, bin string, args ...string) error {
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(bin), strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
