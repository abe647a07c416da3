package deploy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// patience bounds waiting on a loaded machine.
const patience = 30 * time.Second

// cluster runs the manifests' daemons as processes: with their arguments,
// environment and configurations, the keys that the README makes, and each pod
// at a loopback address of its own instead of a pod network.
type cluster struct {
	*world
	t     *testing.T
	root  string // holds what is mounted, below it each path as in the container
	keys  string // where the README's commands ran
	token string
	http  *http.Client
}

// address is a loopback address that nobody else is likely to have.
func address(t *testing.T) string {
	t.Helper()
	a := fmt.Sprintf("127.%d.%d.%d", 1+mrand.IntN(250), mrand.IntN(256), 1+mrand.IntN(254))
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", a+":8000")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	return a
}

// command runs a command, which must succeed.
func (c *cluster) command(dir string, words ...string) {
	c.t.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %v: %s", words, err, out)
	}
}

// makeKeys runs the README's rhumb commands that make keys, and makes what it
// has other tools make.
func (c *cluster) makeKeys() {
	c.t.Helper()
	made := 0
	for line := range strings.Lines(c.readme) {
		if words := strings.Fields(line); strings.HasPrefix(line, "rhumb keygen ") {
			c.command(c.keys, append([]string{c.rhumb}, words[1:]...)...)
			made++
		}
	}
	if made < 4 {
		c.t.Fatalf("the README makes only %d keys", made)
	}
	c.write(filepath.Join(c.keys, "admin.token"), c.token+"\n")
	for _, name := range []string{"admin", "route", "inference"} {
		cert, key := certificate(c.t)
		c.write(filepath.Join(c.keys, name+".crt"), cert)
		c.write(filepath.Join(c.keys, name+".key"), key)
	}
}

func (c *cluster) write(file, text string) {
	c.t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// certificate is one that nobody trusts.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, x, x, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", pkcs8)
}

// mount puts a daemon's Secrets and its empty volumes where it finds them.
func (c *cluster) mount(d *daemon) string {
	c.t.Helper()
	root := filepath.Join(c.root, d.GetName())
	for _, m := range d.c.VolumeMounts {
		folder := filepath.Join(root, m.MountPath)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			c.t.Fatal(err)
		}
		if v, _, _ := d.mounted(d.c, m.MountPath+"/x"); v != nil && v.Secret != nil {
			for key, file := range c.secrets[v.Secret.SecretName] {
				b, err := os.ReadFile(filepath.Join(c.keys, file))
				if err != nil {
					c.t.Fatal(err)
				}
				c.write(filepath.Join(folder, key), string(b))
			}
		}
	}
	return root
}

// start runs a daemon at an address, after changes to its configuration that
// the place asks for: addresses of its own, and whoever it is told to look for.
func (c *cluster) start(d *daemon, at string, change func(map[string]any)) {
	c.t.Helper()
	root := c.mount(d)
	text := named.ReplaceAllString(d.text, ": "+root+"$1")
	text = strings.ReplaceAll(text, `":`, `"`+at+":") // ":8000" of a listener
	var settings map[string]any
	if err := yaml.Unmarshal([]byte(text), &settings); err != nil {
		c.t.Fatal(err)
	}
	change(settings)
	out, err := yaml.Marshal(settings)
	if err != nil {
		c.t.Fatal(err)
	}
	args := append([]string(nil), d.c.Args...)
	for i := range args {
		if strings.HasPrefix(args[i], "/") {
			args[i] = root + args[i]
			c.write(args[i], string(out))
		}
	}
	c.process(environment(d.c, at, "pod-1"), args...)
}

// process runs our binary until the test ends.
func (c *cluster) process(env []string, args ...string) {
	c.t.Helper()
	cmd := exec.CommandContext(context.Background(), c.rhumb, args...)
	var log bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &log, &log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if c.t.Failed() {
			c.t.Logf("%v:\n%s", args, log.String())
		}
	})
}

// ask is the answer of a URL, with the admin token if asked for.
func (c *cluster) ask(url, token string) (status int, body string) {
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		c.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(b)
}

// probed waits until a probe succeeds, as the kubelet makes it: without a token,
// trusting any certificate.
func (c *cluster) probed(d *daemon, p *corev1.Probe, at string) {
	c.t.Helper()
	if p.TCPSocket != nil {
		port, _ := d.port(p.TCPSocket.Port.String(), corev1.ProtocolTCP)
		regionstest.Eventually(c.t, patience, func() bool {
			conn, err := new(net.Dialer).DialContext(c.t.Context(), "tcp", fmt.Sprintf("%s:%d", at, port.ContainerPort))
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		}, fmt.Sprintf("%s accepts connections at %s", d.GetName(), port.Name))
		return
	}
	port, _ := d.port(p.HTTPGet.Port.String(), corev1.ProtocolTCP)
	scheme := "http"
	if p.HTTPGet.Scheme == corev1.URISchemeHTTPS {
		scheme = "https"
	}
	url := fmt.Sprintf("%s://%s:%d%s", scheme, at, port.ContainerPort, p.HTTPGet.Path)
	regionstest.Eventually(c.t, patience, func() bool {
		status, _ := c.ask(url, "")
		return status == http.StatusOK
	}, fmt.Sprintf("%s answers its probe %s", d.GetName(), p.HTTPGet.Path))
}

// TestLive starts the daemons with the manifests' configurations and looks
// whether their probes answer, they find each other, and the metrics by which
// Triton is scaled are there.
func TestLive(t *testing.T) {
	w := load(t)
	w.rhumb = rhumb(t)
	var found problems
	if w.objects, found = decode(w.files); len(found) > 0 {
		t.Fatal(found)
	}
	dir := t.TempDir()
	c := &cluster{
		world: w, t: t, root: filepath.Join(dir, "root"), keys: filepath.Join(dir, "keys"), token: "the admin token",
		http: &http.Client{Timeout: patience, Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // as the kubelet does
		}},
	}
	if err := os.MkdirAll(c.keys, 0o700); err != nil {
		t.Fatal(err)
	}
	c.makeKeys()
	all, found := w.daemons()
	if len(found) > 0 || len(all) != 2 {
		t.Fatalf("%d daemons, %v", len(all), found)
	}
	pod, director, agent := address(t), address(t), address(t)
	c.process(nil, "pod", "--listen", pod+":8000", "--metrics-listen", pod+":8002", "--model", "llama")
	for i := range all {
		d := &all[i]
		if d.Director == nil {
			continue
		}
		c.start(d, director, func(s map[string]any) {
			g := s["gossip"].(map[string]any)
			g["bind"], g["advertise"], g["seeds"] = director+":7946", director+":7946", []string{}
		})
		// Its probes do not wait for a region: that comes by way of it.
		for _, p := range probes(d.c) {
			c.probed(d, p, director)
		}
	}
	for i := range all {
		d := &all[i]
		if d.Agent == nil {
			continue
		}
		c.start(d, agent, func(s map[string]any) {
			s["gossip"].(map[string]any)["seeds"] = []string{director + ":7946"}
			// There is no cluster here.
			s["agent"].(map[string]any)["discovery"] = []map[string]any{{"type": "static", "pods": []map[string]any{
				{"name": "triton-0", "http": pod + ":8000", "metrics": pod + ":8002"},
			}}}
		})
		for _, p := range probes(d.c) {
			c.probed(d, p, agent)
		}
	}
	ok := func(what, url, token, want string) string {
		t.Helper()
		var last string
		regionstest.Eventually(t, patience, func() bool {
			status, body := c.ask(url, token)
			last = body
			return status == http.StatusOK && strings.Contains(body, want)
		}, what)
		return last
	}
	ok("the region is ready", "http://"+agent+":8000/v2/health/ready", "", "")
	ok("the director has heard of it", "https://"+director+":8088/api/v1/regions", c.token, `"state":"ready"`)
	if status, body := c.ask("https://"+agent+":8088/metrics", ""); status != http.StatusUnauthorized {
		t.Errorf("metrics without the token: %d %s", status, body)
	}

	w.series = ok("the agent has a demand", "https://"+agent+":8088/metrics", c.token, "rhumb_scale_demand_slots{") +
		ok("the pod has metrics", "http://"+pod+":8002/metrics", "", "nv_")
	check{"scaling", checkScaling, []spoilt{
		{"hpa.yaml", "name: rhumb_scale_demand_slots", "name: rhumb_scale_demand", "no daemon has the metric rhumb_scale_demand "},
		{"hpa.yaml", "nv_gpu_utilization", "nv_gpu_util", "no daemon has the metric nv_gpu_util "},
		{"hpa.yaml", "model: llama", "model: mistral", "no daemon has the metric rhumb_scale_demand_slots of"},
		{"hpa.yaml", "model: llama", "name: llama", "is of no model"},
		{"hpa.yaml", `averageValue: "8"`, `averageValue: "16"`, "a pod of llama has 8 slots, and the target is 16"},
		{"hpa.yaml", "name: cpu", "name: nvidia.com/mig", "requests no nvidia.com/mig"},
		{"hpa.yaml", "stabilizationWindowSeconds: 900", "stabilizationWindowSeconds: 0", "too soon"},
		{"hpa.yaml", "maxReplicas: 16", "maxReplicas: 2", "has no room"},
		{"README.md", "seriesQuery: rhumb_scale_demand_slots", "seriesQuery: rhumb_demand", "README.md: no daemon has the metric rhumb_demand "},
	}}.run(t, w)
}
