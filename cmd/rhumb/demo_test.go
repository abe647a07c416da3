package main

import (
	"context"

	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/simulations/layout"
)

func TestDemoTakesOrders(t *testing.T) {
	at := []string{"demo", "--net", layout.Random().Net.String(), "--port", "28080"}
	ctx, stop := context.WithCancel(context.Background())
	var out, errs strings.Builder
	done := make(chan int, 1)
	go func() { done <- run(ctx, at, &out, &errs) }()

	regionstest.Eventually(t, 30*time.Second, func() bool {
		code, _, _ := rhumb(t, append(at, "weather", "--delay", "1ms", "--loss", "1")...)
		return code == exitOK
	}, "the demo takes orders")
	if code, _, stderr := rhumb(t, append(at, "lose", "mars")...); code != exitUsage || !strings.Contains(stderr, "there are [us-east eu-west ap-northeast]") {
		t.Errorf("lose mars: exit %d, %s", code, stderr)
	}
	if code, _, stderr := rhumb(t, at...); code != exitUsage || !strings.Contains(stderr, "address in use") || !strings.Contains(stderr, "--net") {
		t.Errorf("a second demo at the same place: exit %d, %s", code, stderr)
	}
	stop()
	if code := <-done; code != exitOK || errs.String() != "" {
		t.Errorf("exit %d, %s", code, errs.String())
	}
	if !strings.Contains(out.String(), "dig @") {
		t.Errorf("no welcome:\n%s", out.String())
	}
}

func TestDemoBadPlace(t *testing.T) {
	for args, want := range map[string]string{
		"demo --net 10.0.0.0/16":            "want a /16 of loopback",
		"demo --net fish":                   "fish",
		"demo --port 80":                    "want 3804 to",
		"demo --check --failover 3":         "give one",
		"demo --check --log chatty":         "chatty",
		"demo --port 28081 heal eu-west":    "no demo answers",
		"demo --port 28081 crash eu-west x": "want its number or name",
		"demo --failover 0":                 "want at least 1",
		"demo weather --loss 200":           "0 to 100 percent",
	} {
		code, _, stderr := rhumb(t, strings.Fields(args)...)
		wantCode := exitUsage
		if want == "no demo answers" {
			wantCode = exitFailed
		}
		if code != wantCode || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %s", args, code, stderr)
		}
	}
}
