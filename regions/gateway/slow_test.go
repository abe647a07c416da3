package gateway_test

import (
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// frame is a frame of HTTP/2 (RFC 9113 section 4.1).
func frame(kind, flags byte, stream uint32, payload string) string {
	head := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	head = append(head, flags)
	return string(binary.BigEndian.AppendUint32(head, stream)) + payload
}

const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	// getLive is the block of GET /v2/health/live for a host x, by the static table
	// of RFC 7541.
	getLive = "\x82\x86\x04\x0f/v2/health/live\x41\x01x"
)

var (
	settings = frame(4, 0, 0, "")
	ack      = frame(4, 1, 0, "")
)

// TestSlowClientsAreCut: whatever a client says and then says no more, or says byte by
// byte, its connection is closed, at the latest after what is given in virtual time.
func TestSlowClientsAreCut(t *testing.T) {
	inBubble(t, func(b *bubble) {
		if !b.Transport.(*http.Transport).Protocols.HTTP1() {
			return // the same whatever other clients speak
		}
		for _, tt := range []struct {
			name, words string
			again       string        // and again, every
			every       time.Duration //
			within      time.Duration
		}{
			{"nothing", "", "", 0, 5 * time.Second},
			{"half a line", "GET /v2/he", "", 0, 5 * time.Second},
			{"half a head", "GET /v2/health/live HTTP/1.1\r\nHost: h\r\nX: ", "", 0, 5 * time.Second},
			{"a head byte by byte", "GET /v2/health/live HTTP/1.1\r\nHost: h\r\nX: ", "x", time.Second, 5 * time.Second},
			{"blank lines", "", "\r\n", time.Second, 5 * time.Second},
			{"nothing after a request", "GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n", "", 0, time.Minute},
			{"a second head byte by byte", "GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\nGET /", "x", time.Second, 5 * time.Second},
			{"half a body", post + "Content-Length: 9\r\n\r\nhalf", "", 0, 31 * time.Second},
			{"a body byte by byte", post + "Content-Length: 9000\r\n\r\n", "x", time.Second, 31 * time.Second},
			{"half a chunk", post + chunked + "\r\n9\r\nhalf", "", 0, 31 * time.Second},
			{"chunks of a byte", post + chunked + "\r\n", "1\r\nx\r\n", time.Second, 31 * time.Second},
			{"an endless chunk's head", post + chunked + "\r\n1;x=", "x", time.Second, 31 * time.Second},
			{"an endless trailer", post + chunked + "\r\n0\r\nX: ", "x", time.Second, 31 * time.Second},
			{"a body that nobody wants", "POST /nope HTTP/1.1\r\nHost: h\r\nContent-Length: 9000\r\n\r\n", "x", time.Second, 11 * time.Second},
			{"half a preface", preface[:20], "", 0, 10 * time.Second},
			{"a preface only", preface, "", 0, 5 * time.Second},
			{"nothing but settings", preface + settings, "", 0, time.Minute + time.Second},
			{"half a frame", preface + settings + ack + settings[:5], "", 0, time.Minute + time.Second},
			{"half a block of a head", preface + settings + ack + frame(1, 1, 1, getLive), "", 0, time.Minute},
			{"a block of a head bit by bit", preface + settings + ack + frame(1, 1, 1, getLive), frame(9, 0, 1, ""), time.Second, time.Minute},
			{"pings", preface + settings + ack, frame(6, 0, 0, "12345678"), time.Second, time.Minute + 2*time.Second},
			{"windows", preface + settings + ack, frame(8, 0, 0, "\x00\x00\x00\x01"), time.Second, time.Minute + 2*time.Second},
			{"a refused body bit by bit", preface + settings + ack + frame(1, 4, 1, getLive), frame(0, 0, 1, "x"), time.Second, time.Minute + 12*time.Second},
		} {
			c, err := b.door.dial(b.t.Context(), "", "")
			if err != nil {
				b.t.Fatal(err)
			}
			began, done := time.Now(), make(chan struct{})
			go func() {
				defer close(done)
				defer func() { _ = c.Close() }() // what is still to be said is not heard
				_, _ = io.Copy(io.Discard, c)
			}()
			_, _ = io.WriteString(c, tt.words)
			for over := false; !over; {
				every := tt.every
				if every == 0 {
					every = time.Hour
				}
				select {
				case <-done:
					over = true
				case <-time.After(every):
					if over = tt.again == ""; !over {
						_, _ = io.WriteString(c, tt.again)
					}
				}
			}
			if took := time.Since(began); took > tt.within {
				b.t.Errorf("%s: cut after %v, want within %v", tt.name, took, tt.within)
			}
			_ = c.Close()
			<-done
		}
	})
}

// TestDeafClientsAreCut: a client of HTTP/2 that takes no byte but goes on sending
// frames, so that it is never asked for a sign of life.
func TestDeafClientsAreCut(t *testing.T) {
	inBubble(t, func(b *bubble) {
		if b.Transport.(*http.Transport).Protocols.HTTP1() {
			return
		}
		b.pod = func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, strings.Repeat("x", 1<<10))
		}
		c, err := b.door.dial(b.t.Context(), "", "")
		if err != nil {
			b.t.Fatal(err)
		}
		began := time.Now()
		for err = error(nil); err == nil; wait(5 * time.Second) {
			if time.Since(began) > time.Hour {
				b.t.Fatal("it is never cut")
			}
			if time.Since(began) == 0 {
				_, err = io.WriteString(c, preface+settings)
				continue
			}
			_, err = io.WriteString(c, frame(8, 0, 0, "\x00\x00\x00\x01"))
		}
		if took := time.Since(began); took > 2*writeWait {
			b.t.Errorf("cut after %v, want some %v", took, writeWait)
		}
		_ = c.Close()
	})
}

// TestSlowReadersAreCut: who takes an answer that does not end byte by byte is cut
// like who takes nothing, and who takes it slowly but well is not.
func TestSlowReadersAreCut(t *testing.T) {
	inBubble(t, func(b *bubble) {
		if !b.Transport.(*http.Transport).Protocols.HTTP1() {
			return // a client of HTTP/2 has its bytes by frames: see TestStallsAreEnded
		}
		gone := make(chan struct{}, 1)
		b.pod = func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			for pause := time.Second; r.Context().Err() == nil; pause = 10 * time.Millisecond {
				_, _ = io.WriteString(w, "data: a token or two\n\n")
				_ = http.NewResponseController(w).Flush()
				wait(pause) // after the first: see TestStallsAreEnded
			}
			gone <- struct{}{}
		}
		for _, tt := range []struct {
			every time.Duration // for the next byte
			cut   bool
		}{{200 * time.Millisecond, true}, {20 * time.Millisecond, false}} {
			c, err := b.door.dial(b.t.Context(), "", "")
			if err != nil {
				b.t.Fatal(err)
			}
			_, _ = io.WriteString(c, post+two)
			for seen := ""; !strings.Contains(seen, "token"); {
				part := make([]byte, 4<<10)
				n, err := c.Read(part)
				if err != nil {
					b.t.Fatal(err)
				}
				seen += string(part[:n])
			}
			began := time.Now()
			for err == nil && time.Since(began) < 10*time.Minute {
				wait(tt.every)
				_, err = c.Read(make([]byte, 1))
			}
			if took := time.Since(began); tt.cut != (err != nil) || took > time.Minute && tt.cut {
				b.t.Errorf("a byte each %v: %v after %v; want it cut %v", tt.every, err, took, tt.cut)
			}
			_ = c.Close()
			<-gone
		}
	})
}

// writeWait is how long a connection of HTTP/2 may take nothing.
const writeWait = 30 * time.Second
