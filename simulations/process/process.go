// Package process runs daemons as people do, to be killed, stopped and started again.
package process

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

// Process is one daemon. It may live several times.
type Process struct {
	Name string
	Bin  string
	Args []string
	Log  string // file for its output, of all its lives
	// Failed is told of ends that nobody asked for.
	Failed func(*Stray)

	mu    sync.Mutex
	cmd   *exec.Cmd     // nil while it does not run
	ended chan struct{} // closed when cmd has ended
	asked bool          // its end was asked for
}

// Stray is the end of a process that nobody asked for.
type Stray struct {
	Name  string
	State string // how it ended: its exit status or the signal
	words string // the last of its log
}

// Error says what ended, how, and with which words.
func (s *Stray) Error() string {
	return fmt.Sprintf("%s ended by itself (%s): %s", s.Name, s.State, s.words)
}

// Start starts the process, if it does not run, and returns at once.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return nil
	}
	out, err := os.OpenFile(p.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }() // the process has its own
	//nolint:noctx // it outlives whatever starts it, and is ended by signals
	cmd := exec.Command(p.Bin, p.Args...)
	cmd.Stdout, cmd.Stderr = out, out
	// In a group of its own a Ctrl-C is the parent's to pass on, in its order; and
	// should the parent be killed, the process goes with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended, p.asked = cmd, ended, false
	go p.follow(cmd, ended)
	return nil
}

// follow waits for the end of one life.
func (p *Process) follow(cmd *exec.Cmd, ended chan struct{}) {
	_ = cmd.Wait() // how it ended is in its state
	p.mu.Lock()
	asked := p.asked
	p.cmd = nil
	p.mu.Unlock()
	if !asked {
		p.Failed(&Stray{p.Name, cmd.ProcessState.String(), p.LastWords()})
	}
	close(ended)
}

// LastWords are the ends of what it wrote.
func (p *Process) LastWords() string {
	text, err := os.ReadFile(p.Log)
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

// PID is its process ID, 0 if it does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// ErrNotRunning is the error for a signal to a process that does not run.
var ErrNotRunning = errors.New("does not run")

// Signal sends a signal. One that ends the process must be said to be asked for.
func (p *Process) Signal(s syscall.Signal, asked bool) (ended <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil, fmt.Errorf("%s: %w", p.Name, ErrNotRunning)
	}
	p.asked = p.asked || asked
	if err := p.cmd.Process.Signal(s); err != nil {
		return nil, fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return p.ended, nil
}

// Kill is kill -9; it returns when the process has ended.
func (p *Process) Kill() error {
	ended, err := p.Signal(syscall.SIGKILL, true)
	if err != nil {
		return err
	}
	<-ended
	return nil
}

// patience bounds a graceful end: an agent's streams may take as long as their
// example's drain_timeout of 30 s.
const patience = 40 * time.Second

// Stop is kill -TERM; it waits for the graceful end, and kills a process that
// has none.
func (p *Process) Stop(ctx context.Context) error {
	ended, err := p.Signal(syscall.SIGTERM, true)
	if errors.Is(err, ErrNotRunning) {
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
	return errors.Join(fmt.Errorf("%s did not end within %v of SIGTERM: %s", p.Name, patience, p.LastWords()), p.Kill())
}

// Run runs a command to its end in a folder.
func Run(ctx context.Context, dir, bin string, args ...string) error {
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(bin), strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
