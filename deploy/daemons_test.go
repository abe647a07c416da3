package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// TestDaemons: what the manifests say of the daemons is so.
func TestDaemons(t *testing.T) {
	w := load(t)
	w.rhumb = rhumb(t)
	var found problems
	if w.objects, found = decode(w.files); len(found) > 0 {
		t.Fatal(found)
	}
	for _, c := range []check{
		{"configurations", checkConfigs, []spoilt{
			{"agent.yaml", "region: eu-west\n", "regoin: eu-west\n", "agent.regoin: no such key"},
			{"agent.yaml", "RHUMB_AGENT_NAME", "RHUMB_AGENT_NAMES", "agent.name"},
			{"agent.yaml", "$(POD_IP):7946", "$(POD_IP)", "gossip.bind"},
			{"agent.yaml", "token_file: /etc/rhumb/admin/token", "", "without a token and TLS"},
			{"director.yaml", "serial: 1", "serial: 0", "zone.serial"},
			{"director.yaml", `args: ["director"`, `args: ["agent"`, "is for [director]"},
			{"director.yaml", "config/director.yaml\"", "config/directors.yaml\"", "has no key directors.yaml"},
			{"agent.yaml", `"--config", "/etc/rhumb/config/agent.yaml"`, "", "names no configuration"},
		}},
		{"files", checkFiles, []spoilt{
			{"agent.yaml", "fleet/eu-west.pem", "fleet/eu-north.pem", "/etc/rhumb/fleet/eu-north.pem: the Secret rhumb-region has no such key"},
			{"README.md", "--from-file=token=admin.token", "--from-file=admin.token", "/etc/rhumb/admin/token: the Secret rhumb-admin has no such key"},
			{"agent.yaml", "mountPath: /etc/rhumb/admin,", "mountPath: /etc/rhumb/adm,", "/etc/rhumb/admin/token: nothing is mounted there"},
			{"director.yaml", "mountPath: /var/lib/rhumb}", "mountPath: /var/lib/rhumb, readOnly: true}", "can't be written"},
			{"director.yaml", "director.state", "state/director.state", "its folder is not there"},
		}},
		{"flags", checkFlags, []spoilt{
			{"agent.yaml", `"--config"`, `"--conf"`, "rhumb agent has no flag --conf"},
			{"director.yaml", `"director", "--config"`, `"director", "--verbose", "--config"`, "rhumb director has no flag --verbose"},
			{"director.yaml", `"director", "--config"`, `"run", "--config"`, "rhumb has no command run"},
			{"README.md", "keygen gossip", "keygen gosip", "rhumb keygen has no command gosip"},
			{"README.md", "eu-west --endpoint", "eu-west --endpoints", "rhumb keygen region has no flag --endpoints"},
			{"README.md", "--skip-files", "--skip", "rhumb check config has no flag --skip"},
		}},
		{"ports", checkPorts, []spoilt{
			{"agent.yaml", "containerPort: 8000", "containerPort: 8001", "nothing listens on TCP 8001"},
			{"agent.yaml", `listen: [":8000"]`, `listen: [":8001"]`, "TCP 8001 of the configuration is no port"},
			{"director.yaml", "- {name: dns-udp, containerPort: 5300, protocol: UDP}", "", "UDP 5300 of the configuration is no port"},
			{"director.yaml", `listen: [":5300"]`, `listen: ["127.0.0.1:5300"]`, "listens on 127.0.0.1:5300, which nobody else can reach"},
		}},
		{"probes", checkProbes, []spoilt{
			{"agent.yaml", ", scheme: HTTPS", "", "asks admin by HTTP, which is served by HTTPS"},
			{"agent.yaml", "port: gateway}\n            initial", "port: gateway, scheme: HTTPS}\n            initial", "asks gateway by HTTPS, which is served by HTTP"},
			{"agent.yaml", "port: admin, scheme", "port: adm, scheme", "has no TCP port adm"},
			{"triton.yaml", "/v2/models/llama/ready, port: http", "/v2/models/llama/ready, port: metrics", "answers anything with 200"},
			{"triton.yaml", "/v2/models/llama/ready", "/v2/models/mistral/ready", "no agent has the model mistral"},
			{"director.yaml", "          livenessProbe:\n            tcpSocket: {port: dns}\n            periodSeconds: 10\n            timeoutSeconds: 5\n            failureThreshold: 6\n", "", "lacks a probe"},
			{"director.yaml", "tcpSocket: {port: dns}", "tcpSocket: {port: dnss}", "has no TCP port dnss"},
		}},
		{"times", checkTimes, []spoilt{
			{"agent.yaml", "terminationGracePeriodSeconds: 660", "terminationGracePeriodSeconds: 600", "is killed after 600 s, before its 625 s"},
			{"agent.yaml", "drain_timeout: 600s", "drain_timeout: 3600s", "before its 3625 s"},
			{"triton.yaml", "terminationGracePeriodSeconds: 630", "", "is killed after 30 s, before its 600 s"},
			{"ingress.yaml", `proxy-read-timeout: "600"`, `proxy-read-timeout: "60"`, "proxy-read-timeout is 60, read_timeout 600"},
			{"agent.yaml", "body: 100MiB", "body: 200MiB", "proxy-body-size is 100m, body 200MiB"},
		}},
		{"discovery", checkDiscovery, []spoilt{
			{"agent.yaml", "- type: kubernetes\n          name: triton-llama", "- type: kubernetes\n          name: triton", "there is no Service triton in inference"},
			{"agent.yaml", "          namespace: inference\n", "          namespace: default\n", "there is no Service triton-llama in default"},
			{"triton.yaml", "{name: http, port: 8000", "{name: web, port: 8000", "triton-llama has no port http"},
			{"triton.yaml", "{name: metrics, port: 8002, targetPort: metrics}", "", "triton-llama has no port metrics"},
			{"triton.yaml", "{name: http, port: 8000, targetPort: http}", "{name: http, port: 8000, targetPort: grpc}", "the port http is grpc of triton-llama"},
			{"agent.yaml", slicesSource, dnsSource("triton.inference.svc.cluster.local.", 8000, 8002), "no headless Service has the name triton.inference.svc"},
			{"agent.yaml", slicesSource, dnsSource("triton-llama.inference.svc.cluster.local", 8000, 8002), "no headless Service has the name"},
			{"agent.yaml", slicesSource, dnsSource("triton-llama.inference.svc.cluster.local.", 8000, 8003), "triton-llama has no TCP port 8003"},
			{"agent.yaml", slicesSource, dnsSource("triton-llama.inference.svc.cluster.local.", 8001, 8002), "8001 is the port grpc of triton-llama, not http"},
			{"triton.yaml", "clusterIP: None", "clusterIP: \"\"", "no headless Service has the name"},
			{"triton.yaml", "publishNotReadyAddresses: true", "", "leaves out pods that are not ready"},
			{"triton.yaml", "ipFamilyPolicy: SingleStack", "ipFamilyPolicy: PreferDualStack", "may have two addresses for a pod"},
		}},
		{"triton", checkTriton, []spoilt{
			{"triton.yaml", "--exit-timeout-secs", "--exit-timeout", "Triton has no flag --exit-timeout"},
			{"triton.yaml", "--model-repository=/models", "--model-repository=/model", "/model is no mount"},
		}},
	} {
		c.run(t, w)
	}
}

// rhumb builds the binary, once for all tests.
func rhumb(t *testing.T) string {
	t.Helper()
	file, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

var build = sync.OnceValues(func() (string, error) {
	file := filepath.Join(folder, "rhumb")
	cmd := exec.Command("go", "build", "-o", file, "./cmd/rhumb")
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", cmd, err, out)
	}
	return file, nil
})

// folder holds what the tests share; it is removed after them.
var folder string

func TestMain(m *testing.M) {
	var err error
	if folder, err = os.MkdirTemp("", "rhumb-deploy"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// settings are those of a configuration that the manifests must agree with.
type settings struct {
	Admin struct {
		Listen string
		TLS    map[string]string
	}
	Gossip struct{ Bind string }
	Agent  *struct {
		Models []struct {
			Name  string
			Slots int64
		}
		Discovery []struct {
			Type, Name, Namespace string
			HTTPPort              int      `json:"http_port"`
			MetricsPort           int      `json:"metrics_port"`
			GRPCPort              int      `json:"grpc_port"`
			Models                []string `json:"models"`
		}
		Listen []string
		TLS    map[string]string
		Linger string
		Limits struct {
			Body         string
			ReadTimeout  string `json:"read_timeout"`
			WriteTimeout string `json:"write_timeout"`
			DrainTimeout string `json:"drain_timeout"`
		}
	}
	Director *struct {
		DNS      struct{ Listen []string }
		Redirect struct {
			Listen []string
			TLS    map[string]string
		}
	}
}

// daemon is a container with our binary.
type daemon struct {
	workload
	c    *corev1.Container
	text string // its configuration
	settings
	env []string
}

// daemons are all containers with our binary. What keeps one from having a
// configuration is a problem.
func (w *world) daemons() (all []daemon, found problems) {
	for _, x := range w.workloads() {
		for i := range x.pod.Spec.Containers {
			c := &x.pod.Spec.Containers[i]
			if !runsRhumb(c) {
				continue
			}
			at := slices.Index(c.Args, "--config")
			if at < 1 || at+1 == len(c.Args) {
				found.add(x, "names no configuration")
				continue
			}
			v, key, _ := x.mounted(c, c.Args[at+1])
			if v == nil || v.ConfigMap == nil {
				found.add(x, "%s is in no ConfigMap", c.Args[at+1])
				continue
			}
			d := daemon{workload: x, c: c, env: environment(c, "10.244.1.7", x.GetName()+"-7d9f8b6c5d-x2x8z")}
			if m := get[*corev1.ConfigMap](w)[v.ConfigMap.Name]; m != nil {
				d.text = m.Data[key]
			}
			if err := yaml.Unmarshal([]byte(d.text), &d.settings); d.text == "" || err != nil {
				found.add(x, "the ConfigMap %s has no key %s: %v", v.ConfigMap.Name, key, err)
				continue
			}
			all = append(all, d)
		}
	}
	return all, found
}

// mounted finds the volume that a path is in, and the path in it. A claim of a
// StatefulSet's own has no volume.
func (x *workload) mounted(c *corev1.Container, path string) (v *corev1.Volume, in string, m *corev1.VolumeMount) {
	for i := range c.VolumeMounts {
		if rest, ok := strings.CutPrefix(path, c.VolumeMounts[i].MountPath+"/"); ok {
			m, in = &c.VolumeMounts[i], rest
		}
	}
	for i := range x.pod.Spec.Volumes {
		if m != nil && x.pod.Spec.Volumes[i].Name == m.Name {
			v = &x.pod.Spec.Volumes[i]
		}
	}
	return v, in, m
}

// environment is a container's, as in a pod of an address and name.
func environment(c *corev1.Container, address, name string) []string {
	var env []string
	known := map[string]string{}
	for _, e := range c.Env {
		value := e.Value
		if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil {
			value = map[string]string{"status.podIP": address, "metadata.name": name}[e.ValueFrom.FieldRef.FieldPath]
		}
		for k, v := range known {
			value = strings.ReplaceAll(value, "$("+k+")", v)
		}
		known[e.Name] = value
		env = append(env, e.Name+"="+value)
	}
	return env
}

// listener is an address of a configuration.
type listener struct {
	address  string
	protocol corev1.Protocol
	tls      bool
}

// listeners are all of a daemon's.
func (d *daemon) listeners() []listener {
	bind := d.Gossip.Bind
	for _, e := range d.env {
		if value, ok := strings.CutPrefix(e, "RHUMB_GOSSIP_BIND="); ok {
			bind = value
		}
	}
	out := []listener{
		{d.Admin.Listen, corev1.ProtocolTCP, len(d.Admin.TLS) > 0},
		{bind, corev1.ProtocolTCP, false},
		{bind, corev1.ProtocolUDP, false},
	}
	if d.Agent != nil {
		for _, a := range d.Agent.Listen {
			out = append(out, listener{a, corev1.ProtocolTCP, len(d.Agent.TLS) > 0})
		}
	}
	if d.Director != nil {
		for _, a := range d.Director.DNS.Listen {
			out = append(out, listener{a, corev1.ProtocolTCP, false}, listener{a, corev1.ProtocolUDP, false})
		}
		for _, a := range d.Director.Redirect.Listen {
			out = append(out, listener{a, corev1.ProtocolTCP, len(d.Director.Redirect.TLS) > 0})
		}
	}
	return out
}

// port is the number after the last colon.
func (l listener) port() string { return l.address[strings.LastIndexByte(l.address, ':')+1:] }

func checkConfigs(w *world) problems {
	all, found := w.daemons()
	for _, d := range all {
		file := filepath.Join(folder, "check.yaml")
		if err := os.WriteFile(file, []byte(d.text), 0o600); err != nil {
			found.add(d, "%v", err)
			continue
		}
		cmd := exec.Command(w.rhumb, "check", "config", "--skip-files", "-o", "json", file)
		cmd.Env = d.env
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			found.add(d, "%v: %s", err, errs.String())
			continue
		}
		var verdict struct{ Roles []string }
		if err := json.Unmarshal(out, &verdict); err != nil || !slices.Equal(verdict.Roles, d.c.Args[:1]) {
			found.add(d, "the configuration of %q is for %v", d.c.Args[0], verdict.Roles)
		}
	}
	return found
}

// named is a file in a configuration.
var named = regexp.MustCompile(`: (/[\w./-]+)`)

func checkFiles(w *world) problems {
	all, found := w.daemons()
	for _, d := range all {
		for _, m := range named.FindAllStringSubmatch(d.text, -1) {
			file := m[1]
			v, in, mount := d.mounted(d.c, file)
			switch {
			case mount == nil:
				found.add(d, "%s: nothing is mounted there", file)
			case v != nil && v.Secret != nil:
				if _, ok := w.secrets[v.Secret.SecretName][in]; !ok {
					found.add(d, "%s: the Secret %s has no such key", file, v.Secret.SecretName)
				}
			case strings.Contains(in, "/"):
				found.add(d, "%s: its folder is not there", file)
			case mount.ReadOnly:
				found.add(d, "%s: it can't be written", file)
			}
		}
	}
	return found
}

// helps are the help texts of our binary's commands.
var helps sync.Map

func (w *world) help(command []string) string {
	key := strings.Join(command, " ")
	if text, ok := helps.Load(key); ok {
		return text.(string)
	}
	out, _ := exec.Command(w.rhumb, append(slices.Clone(command), "--help")...).Output() // no help shows
	helps.Store(key, string(out))
	return string(out)
}

func checkFlags(w *world) problems {
	all, found := w.daemons()
	for _, d := range all {
		found.command(w, d, d.c.Args)
	}
	for _, x := range w.workloads() { // also those whose configuration is not found
		for i := range x.pod.Spec.Containers {
			if c := &x.pod.Spec.Containers[i]; runsRhumb(c) && !slices.Contains(c.Args, "--config") {
				found.command(w, x, c.Args)
			}
		}
	}
	for line := range strings.Lines(w.readme) {
		words := strings.Fields(line)
		if len(words) > 1 && (words[0] == "rhumb" || words[0] == "bin/rhumb") {
			found.command(w, place("README.md"), words[1:])
		}
	}
	return found
}

// command checks the words after "rhumb": commands, then arguments and flags.
func (p *problems) command(w *world, at fmt.Stringer, words []string) {
	var command []string
	more := true
	for _, word := range words {
		name := strings.Join(append([]string{"rhumb"}, command...), " ")
		help := w.help(command)
		flag, _, _ := strings.Cut(word, "=")
		switch {
		case strings.HasPrefix(word, "-"):
			more = false
			if !regexp.MustCompile(`(?m)^\s+(-\w, )?` + regexp.QuoteMeta(flag) + `(\s|$)`).MatchString(help) {
				p.add(at, "%s has no flag %s", name, flag)
			}
		case !more, !strings.Contains(help, "Available Commands:"):
			more = false
		case !regexp.MustCompile(`(?m)^  ` + regexp.QuoteMeta(word) + ` `).MatchString(help):
			p.add(at, "%s has no command %s", name, word)
			return
		default:
			command = append(command, word)
		}
	}
}

func checkPorts(w *world) problems {
	all, found := w.daemons()
	for _, d := range all {
		listens := map[string]bool{}
		for _, l := range d.listeners() {
			listens[string(l.protocol)+" "+l.port()] = true
			if _, ok := d.port(l.port(), l.protocol); !ok {
				found.add(d, "%s %s of the configuration is no port of the container", l.protocol, l.port())
			}
			if strings.HasPrefix(l.address, "127.") || strings.HasPrefix(l.address, "[::1]") {
				found.add(d, "listens on %s, which nobody else can reach", l.address)
			}
		}
		for _, p := range d.c.Ports {
			if p.Protocol == "" {
				p.Protocol = corev1.ProtocolTCP
			}
			if !listens[fmt.Sprintf("%s %d", p.Protocol, p.ContainerPort)] {
				found.add(d, "nothing listens on %s %d", p.Protocol, p.ContainerPort)
			}
		}
	}
	return found
}

// probes are a container's.
func probes(c *corev1.Container) (all []*corev1.Probe) {
	for _, p := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

// modelReady is the path by which a pod says whether it has a model.
var modelReady = regexp.MustCompile(`^/v2/models/([^/]+)/ready$`)

func checkProbes(w *world) problems {
	all, found := w.daemons()
	models := map[string]bool{}
	for _, d := range all {
		if d.Agent != nil {
			for _, m := range d.Agent.Models {
				models[m.Name] = true
			}
		}
		for _, p := range probes(d.c) {
			if p.HTTPGet == nil {
				continue // its port is looked for below
			}
			port, _ := d.port(p.HTTPGet.Port.String(), corev1.ProtocolTCP)
			served := "HTTP"
			if slices.ContainsFunc(d.listeners(), func(l listener) bool { return l.tls && l.port() == fmt.Sprint(port.ContainerPort) }) {
				served = "HTTPS"
			}
			asked := "HTTP"
			if p.HTTPGet.Scheme != "" {
				asked = string(p.HTTPGet.Scheme)
			}
			if asked != served {
				found.add(d, "a probe asks %s by %s, which is served by %s", p.HTTPGet.Port.String(), asked, served)
			}
		}
	}
	for _, x := range w.workloads() {
		for i := range x.pod.Spec.Containers {
			c := &x.pod.Spec.Containers[i]
			if c.ReadinessProbe == nil || c.LivenessProbe == nil {
				found.add(x, "%s lacks a probe", c.Name)
			}
			for _, p := range probes(c) {
				found.probe(x, c, p, models)
			}
		}
	}
	return found
}

// probe checks one probe for its port and, of Triton's, for the model.
func (p *problems) probe(x workload, c *corev1.Container, probe *corev1.Probe, models map[string]bool) {
	get := probe.HTTPGet
	switch {
	case probe.TCPSocket != nil:
		ports(p, x, []workload{x}, probe.TCPSocket.Port.String(), corev1.ProtocolTCP)
	case get == nil:
		p.add(x, "a probe of %s is of a kind that this test does not know", c.Name)
	default:
		ports(p, x, []workload{x}, get.Port.String(), corev1.ProtocolTCP)
		if port, _ := x.port(get.Port.String(), corev1.ProtocolTCP); !runsRhumb(c) && port.Name == "metrics" {
			p.add(x, "a probe asks Triton's metrics port, which answers anything with 200")
		}
		if m := modelReady.FindStringSubmatch(get.Path); m != nil && !models[m[1]] {
			p.add(x, "no agent has the model %s that a probe asks for", m[1])
		}
	}
}

// seconds reads a duration of a configuration.
func seconds(text string) int64 {
	d, err := time.ParseDuration(text)
	if err != nil {
		return -1
	}
	return int64(d / time.Second)
}

// exitTimeout is how long Triton is told to take for its end.
var exitTimeout = regexp.MustCompile(`^--exit-timeout-secs=(\d+)$`)

func checkTimes(w *world) problems {
	all, found := w.daemons()
	grace := func(x workload, needs int64) {
		has := int64(30) // Kubernetes's default
		if g := x.pod.Spec.TerminationGracePeriodSeconds; g != nil {
			has = *g
		}
		if has < needs+5 {
			found.add(x, "is killed after %d s, before its %d s are over", has, needs)
		}
	}
	for _, x := range w.workloads() {
		for _, arg := range slices.Concat(x.pod.Spec.Containers[0].Command, x.pod.Spec.Containers[0].Args) {
			if m := exitTimeout.FindStringSubmatch(arg); m != nil {
				n, _ := strconv.ParseInt(m[1], 10, 64) // digits
				grace(x, n)
			}
		}
	}
	const nginx = "nginx.ingress.kubernetes.io/"
	for _, d := range all {
		if d.Agent == nil {
			continue
		}
		l := d.Agent.Limits
		grace(d.workload, seconds(d.Agent.Linger)+seconds(l.DrainTimeout))
		for _, in := range get[*networkingv1.Ingress](w) {
			a := in.Annotations
			if got := a[nginx+"proxy-read-timeout"]; got != fmt.Sprint(seconds(l.ReadTimeout)) {
				found.add(d, "the Ingress's proxy-read-timeout is %s, read_timeout %d", got, seconds(l.ReadTimeout))
			}
			if got := a[nginx+"proxy-send-timeout"]; got != fmt.Sprint(seconds(l.WriteTimeout)) {
				found.add(d, "the Ingress's proxy-send-timeout is %s, write_timeout %d", got, seconds(l.WriteTimeout))
			}
			if got := a[nginx+"proxy-body-size"]; got != strings.Replace(l.Body, "MiB", "m", 1) {
				found.add(d, "the Ingress's proxy-body-size is %s, body %s", got, l.Body)
			}
		}
	}
	return found
}

// slicesSource is the source of pods in the manifest, and dnsSource the other that a
// comment there offers.
const slicesSource = "- type: kubernetes\n          name: triton-llama\n          namespace: inference\n          models: [llama]\n"

func dnsSource(name string, http, metrics int) string {
	return fmt.Sprintf("- {type: dns, name: %s, http_port: %d, metrics_port: %d, models: [llama]}\n", name, http, metrics)
}

// checkDiscovery wants the Service that a source is for, whatever the source's type,
// so that either can be chosen.
func checkDiscovery(w *world) problems {
	all, found := w.daemons()
	for _, d := range all {
		if d.Agent == nil {
			continue
		}
		for _, src := range d.Agent.Discovery {
			at := place(d.String() + ": " + src.Name)
			if src.Type == "kubernetes" {
				checkSlices(w, at, src.Name, src.Namespace, &found)
				src.Name += "." + src.Namespace + ".svc.cluster.local."
			}
			var s *corev1.Service
			for name, x := range get[*corev1.Service](w) {
				if name+"."+x.Namespace+".svc.cluster.local." == src.Name && x.Spec.ClusterIP == corev1.ClusterIPNone {
					s = x
				}
			}
			if s == nil {
				found.add(d, "no headless Service has the name %s", src.Name)
				continue
			}
			if !s.Spec.PublishNotReadyAddresses {
				found.add(at, "leaves out pods that are not ready")
			}
			if p := s.Spec.IPFamilyPolicy; p == nil || *p != corev1.IPFamilyPolicySingleStack {
				found.add(at, "may have two addresses for a pod")
			}
			to := w.selects(&metav1.LabelSelector{MatchLabels: s.Spec.Selector})
			for name, port := range map[string]int{"http": src.HTTPPort, "grpc": src.GRPCPort, "metrics": src.MetricsPort} {
				if port == 0 {
					continue // not looked for
				}
				ports(&found, at, to, fmt.Sprint(port), corev1.ProtocolTCP)
				for _, x := range to {
					if p, ok := x.port(fmt.Sprint(port), corev1.ProtocolTCP); ok && p.Name != name {
						found.add(at, "%d is the port %s of %s, not %s", port, p.Name, x.GetName(), name)
					}
				}
			}
		}
	}
	return found
}

// checkSlices wants a Service with ports that are named for what the pods have there.
func checkSlices(w *world, at place, name, namespace string, found *problems) {
	s := get[*corev1.Service](w)[name]
	if s == nil || s.Namespace != namespace {
		found.add(at, "there is no Service %s in %s", name, namespace)
		return
	}
	to := w.selects(&metav1.LabelSelector{MatchLabels: s.Spec.Selector})
	for _, want := range []string{"http", "grpc", "metrics"} {
		i := slices.IndexFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == want })
		if i < 0 {
			found.add(at, "the Service %s has no port %s", name, want)
			continue
		}
		for _, x := range to {
			if p, ok := x.port(s.Spec.Ports[i].TargetPort.String(), corev1.ProtocolTCP); ok && p.Name != want {
				found.add(at, "the port %s is %s of %s", want, p.Name, x.GetName())
			}
		}
	}
}

// tritonFlags are flags that Triton has.
var tritonFlags = []string{
	"--allow-metrics", "--exit-timeout-secs", "--grpc-port", "--http-max-input-size", "--http-port", "--http-restricted-api", "--load-model",
	"--log-verbose", "--metrics-config", "--metrics-interval-ms", "--metrics-port", "--model-control-mode", "--model-repository",
	"--rate-limit", "--strict-readiness",
}

func checkTriton(w *world) (found problems) {
	servers := 0
	for _, x := range w.workloads() {
		c := &x.pod.Spec.Containers[0]
		if !strings.Contains(c.Image, "/tritonserver:") {
			continue
		}
		servers++
		for _, arg := range c.Args {
			flag, value, _ := strings.Cut(arg, "=")
			if strings.HasPrefix(flag, "-") && !slices.Contains(tritonFlags, flag) {
				found.add(x, "Triton has no flag %s", flag)
			}
			if flag == "--model-repository" && !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == value }) {
				found.add(x, "%s is no mount", value)
			}
		}
	}
	if servers == 0 {
		found.add(place("manifests"), "there is no Triton")
	}
	return found
}

// word is a metric's name as the manifests and the README have it.
var word = regexp.MustCompile(`\b(rhumb|nv)_\w+`)

// checkScaling compares the autoscalers with the metrics of running daemons.
func checkScaling(w *world) problems {
	all, found := w.daemons()
	has := func(at fmt.Stringer, name string, labels *metav1.LabelSelector) {
		want := "^" + name + `(\{| )`
		if labels != nil {
			for k, v := range labels.MatchLabels {
				want += ".*" + regexp.QuoteMeta(fmt.Sprintf("%s=%q", k, v))
			}
		}
		if !regexp.MustCompile("(?m)" + want).MatchString(w.series) {
			found.add(at, "no daemon has the metric %s of %v", name, labels)
		}
	}
	for _, name := range word.FindAllString(w.readme, -1) {
		has(place("README.md"), name, nil)
	}
	for _, o := range w.objects {
		h, ok := o.Object.(*autoscalingv2.HorizontalPodAutoscaler)
		if !ok {
			continue
		}
		if down := h.Spec.Behavior.ScaleDown.StabilizationWindowSeconds; down == nil || *down < 300 {
			found.add(o, "takes pods away too soon")
		}
		if h.Spec.MinReplicas == nil || *h.Spec.MinReplicas < 2 || *h.Spec.MinReplicas >= h.Spec.MaxReplicas {
			found.add(o, "has no room between its least and most replicas, or can't lose one")
		}
		for _, m := range h.Spec.Metrics {
			switch m.Type {
			case autoscalingv2.ResourceMetricSourceType:
				for _, x := range w.workloads() {
					for _, c := range x.pod.Spec.Containers {
						if _, ok := c.Resources.Requests[m.Resource.Name]; !ok && x.GetName() == h.Spec.ScaleTargetRef.Name {
							found.add(o, "%s requests no %s to measure its use by", c.Name, m.Resource.Name)
						}
					}
				}
			case autoscalingv2.PodsMetricSourceType:
				has(o, m.Pods.Metric.Name, m.Pods.Metric.Selector)
			case autoscalingv2.ExternalMetricSourceType:
				has(o, m.External.Metric.Name, m.External.Metric.Selector)
				found.slots(o, m.External, all)
			default:
				found.add(o, "%s is a kind of metric that this test does not know", m.Type)
			}
		}
	}
	return found
}

// slots wants the demand to be divided by what a pod of the model runs at once.
func (p *problems) slots(at fmt.Stringer, m *autoscalingv2.ExternalMetricSource, all []daemon) {
	for _, d := range all {
		if d.Agent == nil {
			continue
		}
		for _, model := range d.Agent.Models {
			if m.Metric.Selector == nil || m.Metric.Selector.MatchLabels["model"] != model.Name {
				continue
			}
			if m.Target.AverageValue == nil || m.Target.AverageValue.Value() != model.Slots {
				p.add(at, "a pod of %s has %d slots, and the target is %v", model.Name, model.Slots, m.Target.AverageValue)
			}
			return
		}
	}
	p.add(at, "%s is of no model of an agent", m.Metric.Name)
}
