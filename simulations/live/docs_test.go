package live

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/simulations/layout"
	"github.com/rhumb-lb/rhumb/simulations/process"
)

// block is a fenced part of a page: commands, and the output that the page shows
// for them, if it does.
type block struct {
	line   int
	shell  string
	output string
}

// blocks are the sh blocks of a page, each with the text block that follows it.
func blocks(page string) []block {
	var out []block
	var kind, text string
	for i, line := range strings.Split(page, "\n") {
		fence, fenced := strings.CutPrefix(line, "```")
		switch {
		case fenced && kind == "":
			if kind, text = fence, ""; kind == "" {
				kind = "plain"
			}
		case fenced:
			switch {
			case kind == "sh":
				out = append(out, block{line: i - strings.Count(text, "\n"), shell: text})
			case kind == "text" && len(out) > 0:
				out[len(out)-1].output = text
			}
			kind = ""
		default:
			text += line + "\n"
		}
	}
	return out
}

// script is one bash program of all blocks, each between marks in its output.
func script(all []block) string {
	var b strings.Builder
	b.WriteString("set -eo pipefail\n")
	for i, x := range all {
		fmt.Fprintf(&b, "echo '@@ %d'\n%s", i, x.shell)
	}
	b.WriteString("echo '@@ end'\n")
	return b.String()
}

// TestOperatingPage pastes docs/operating.md into a bash, moved to a network of
// its own, and compares what the page shows with what comes.
func TestOperatingPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	at := freeLayout(t)
	all := blocks(hostAt.ReplaceAllString(string(page), fmt.Sprintf("127.%d$1", at.Net.Addr().As4()[1])))
	if len(all) < 10 {
		t.Fatalf("%d blocks of commands: is this still the page?", len(all))
	}
	home := t.TempDir()
	root := clone(t)
	moveExample(t, filepath.Join(root, "deploy/example"), at)
	// Without a context: its whole group is killed below.
	cmd := exec.Command("bash", "-c", script(all))
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "PATH="+digPath(t), "HOME="+home, "GOCACHE="+goEnv(t, "GOCACHE"), "GOMODCACHE="+goEnv(t, "GOMODCACHE"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 5 * time.Second // daemons that the page leaves hold the pipes
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(3*time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err = cmd.Wait()
	stop.Stop()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		t.Errorf("the page stops: %v", err)
	}
	judge(t, all, out.String(), errs.String())
}

// judge compares the output of each block with what the page shows.
func judge(t *testing.T, all []block, out, errs string) {
	t.Helper()
	for i, x := range all {
		_, rest, ran := strings.Cut(out, fmt.Sprintf("@@ %d\n", i))
		got, _, _ := strings.Cut(rest, "@@ ")
		switch {
		case !ran:
			t.Fatalf("docs/operating.md:%d was never reached; before it:\n%s\n%s", x.line, out, errs)
		case x.output != "" && got != x.output:
			t.Errorf("docs/operating.md:%d shows\n%s\nbut there came\n%s\n%s", x.line, x.output, got, errs)
		}
	}
	if !strings.HasSuffix(out, "@@ end\n") {
		t.Errorf("the last block failed:\n%s\n%s", out, errs)
	}
}

// freeLayout is a layout whose addresses nobody uses.
func freeLayout(t *testing.T) layout.Layout {
	t.Helper()
	for range 20 {
		if l := layout.Random(); l.TryAll(t.Context()) == nil {
			return l
		}
	}
	t.Fatal("no network of loopback is free")
	return layout.Layout{}
}

// clone copies what is committed and what is not yet, so that the page can do as
// it likes in its checkout.
func clone(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := process.Run(t.Context(), "../..", "cp", "-r", "cmd", "director", "dnsserver", "gossip", "regions", "deploy", "simulations", "go.mod", "go.sum", "Makefile", dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// moveExample moves the example's files to the layout, as the page is moved.
func moveExample(t *testing.T, dir string, at layout.Layout) {
	t.Helper()
	if err := (&World{opts: Options{Dir: dir, Layout: at}}).writeConfigs(); err != nil {
		t.Fatal(err)
	}
}

// goEnv is a setting of the go command, which depends on HOME.
func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
