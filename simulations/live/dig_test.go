package live

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/dnsserver/dnstest"
)

// asDig in the environment makes this test's binary answer as dig would, for
// machines without it: as much of it as the pages use.
const asDig = "RHUMB_TEST_AS_DIG"

// dig is dig @ADDR -p PORT NAME TYPE [+subnet=NET] [+short]: it prints what +short
// prints.
func dig(out io.Writer, args []string) error {
	var q dnstest.Query
	var port uint16
	for i := 0; i < len(args); i++ {
		var err error
		switch a := args[i]; {
		case strings.HasPrefix(a, "@"):
			var addr netip.Addr
			addr, err = netip.ParseAddr(a[1:])
			q.Server = netip.AddrPortFrom(addr, 0)
		case a == "-p":
			var n int
			i++
			n, err = strconv.Atoi(args[i])
			port = uint16(n)
		case strings.HasPrefix(a, "+subnet="):
			q.Subnet, err = netip.ParsePrefix(strings.TrimPrefix(a, "+subnet="))
		case strings.HasPrefix(a, "+"): // of no effect here
		case q.Name == "":
			q.Name = a
		default:
			q.Type = a
		}
		if err != nil {
			return err
		}
	}
	q.Server = netip.AddrPortFrom(q.Server.Addr(), port)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	reply, err := dnstest.Ask(ctx, q)
	if err != nil {
		return err
	}
	for _, a := range reply.Addrs {
		_, _ = fmt.Fprintln(out, a)
	}
	for _, s := range reply.TXT {
		_, _ = fmt.Fprintf(out, "%q\n", s)
	}
	return nil
}

// digPath is a PATH that has dig, the real one or this.
func digPath(t *testing.T) string {
	t.Helper()
	path := os.Getenv("PATH")
	if at, err := exec.LookPath("dig"); err == nil {
		t.Logf("with %s", at)
		return path
	}
	t.Log("there is no dig (Debian: dnsutils); the test asks in its place")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := fmt.Sprintf("#!/bin/sh\n%s=1 exec %q \"$@\"\n", asDig, self)
	if err := os.WriteFile(filepath.Join(dir, "dig"), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir + string(os.PathListSeparator) + path
}
