package deploy

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// The manifests are checked by functions that return problems, each of which is
// also given spoilt manifests, so that it is known to find something.

// kinds are what the manifests may hold.
var kinds = map[string]func() metav1.Object{
	"v1/ConfigMap":                             func() metav1.Object { return new(corev1.ConfigMap) },
	"v1/PersistentVolumeClaim":                 func() metav1.Object { return new(corev1.PersistentVolumeClaim) },
	"v1/Service":                               func() metav1.Object { return new(corev1.Service) },
	"v1/ServiceAccount":                        func() metav1.Object { return new(corev1.ServiceAccount) },
	"apps/v1/Deployment":                       func() metav1.Object { return new(appsv1.Deployment) },
	"apps/v1/StatefulSet":                      func() metav1.Object { return new(appsv1.StatefulSet) },
	"autoscaling/v2/HorizontalPodAutoscaler":   func() metav1.Object { return new(autoscalingv2.HorizontalPodAutoscaler) },
	"networking.k8s.io/v1/Ingress":             func() metav1.Object { return new(networkingv1.Ingress) },
	"networking.k8s.io/v1/NetworkPolicy":       func() metav1.Object { return new(networkingv1.NetworkPolicy) },
	"policy/v1/PodDisruptionBudget":            func() metav1.Object { return new(policyv1.PodDisruptionBudget) },
	"rbac.authorization.k8s.io/v1/Role":        func() metav1.Object { return new(rbacv1.Role) },
	"rbac.authorization.k8s.io/v1/RoleBinding": func() metav1.Object { return new(rbacv1.RoleBinding) },
}

// object is one document.
type object struct {
	metav1.Object
	file string
	kind string
}

// String names the document in problems.
func (o object) String() string { return fmt.Sprintf("%s: %s %s", o.file, o.kind, o.GetName()) }

// problems are what a check found.
type problems []string

func (p *problems) add(at fmt.Stringer, format string, args ...any) {
	*p = append(*p, at.String()+": "+fmt.Sprintf(format, args...))
}

// place names a file or part of one in problems.
type place string

func (p place) String() string { return string(p) }

// world is what the checks look at.
type world struct {
	files   map[string]string
	objects []object
	readme  string
	secrets map[string]map[string]string // keys of each Secret that the README makes, and their files
	rhumb   string                       // the built binary
	series  string                       // metrics of a running agent and a running pod, as text
}

// decode reads all documents, strictly.
func decode(files map[string]string) (objects []object, found problems) {
	seen := map[string]bool{}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if !strings.HasPrefix(files[file], "# ") {
			found.add(place(file), "does not say at its top what it is for")
		}
		for i, text := range strings.Split(files[file], "\n---\n") {
			at := place(fmt.Sprintf("%s: document %d", file, i+1))
			var t metav1.TypeMeta
			if err := yaml.Unmarshal([]byte(text), &t); err != nil {
				found.add(at, "%v", err)
				continue
			}
			empty, ok := kinds[t.APIVersion+"/"+t.Kind]
			if !ok {
				found.add(at, "unknown kind %s/%s", t.APIVersion, t.Kind)
				continue
			}
			o := object{empty(), file, t.Kind}
			if err := yaml.UnmarshalStrict([]byte(text), o.Object); err != nil {
				found.add(at, "%v", err)
				continue
			}
			if o.GetNamespace() != "inference" {
				found.add(o, "is in the namespace %q", o.GetNamespace())
			}
			if id := o.kind + "/" + o.GetName(); seen[id] || o.GetName() == "" {
				found.add(o, "is not the only one of this name")
			} else {
				seen[id] = true
			}
			objects = append(objects, o)
		}
	}
	return objects, found
}

// get finds the documents of a type.
func get[T metav1.Object](w *world) map[string]T {
	out := map[string]T{}
	for _, o := range w.objects {
		if t, ok := o.Object.(T); ok {
			out[o.GetName()] = t
		}
	}
	return out
}

// workload is what makes pods.
type workload struct {
	object
	selector *metav1.LabelSelector
	pod      corev1.PodTemplateSpec
	claims   []string // volumes of its own
}

// workloads are those of all documents.
func (w *world) workloads() []workload {
	var out []workload
	for _, o := range w.objects {
		switch t := o.Object.(type) {
		case *appsv1.Deployment:
			out = append(out, workload{o, t.Spec.Selector, t.Spec.Template, nil})
		case *appsv1.StatefulSet:
			x := workload{o, t.Spec.Selector, t.Spec.Template, nil}
			for _, c := range t.Spec.VolumeClaimTemplates {
				x.claims = append(x.claims, c.Name)
			}
			out = append(out, x)
		}
	}
	return out
}

// port finds a container's port by name or number.
func (x *workload) port(want string, protocol corev1.Protocol) (corev1.ContainerPort, bool) {
	for _, c := range x.pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.Protocol == "" {
				p.Protocol = corev1.ProtocolTCP
			}
			if (p.Name == want || fmt.Sprint(p.ContainerPort) == want) && p.Protocol == protocol {
				return p, true
			}
		}
	}
	return corev1.ContainerPort{}, false
}

// runsRhumb reports whether a container runs our binary.
func runsRhumb(c *corev1.Container) bool { return strings.Contains(c.Image, "/rhumb:") }

// secretsOf reads which Secrets a text makes by kubectl, with which keys from
// which files.
func secretsOf(text string) map[string]map[string]string {
	out := map[string]map[string]string{}
	for line := range strings.Lines(text) {
		_, command, ok := strings.Cut(line, " create secret ")
		words := strings.Fields(command)
		if !ok || !strings.HasPrefix(line, "kubectl ") || len(words) < 2 {
			continue
		}
		keys := map[string]string{}
		for _, word := range words[2:] {
			flag, value, _ := strings.Cut(word, "=")
			switch key, file, both := strings.Cut(value, "="); {
			case flag == "--cert":
				keys["tls.crt"] = value
			case flag == "--key":
				keys["tls.key"] = value
			case flag == "--from-file" && both:
				keys[key] = file
			case flag == "--from-file":
				keys[filepath.Base(value)] = value
			}
		}
		out[words[1]] = keys
	}
	return out
}

// load reads the manifests and the README.
func load(t *testing.T) *world {
	t.Helper()
	w := &world{files: map[string]string{}}
	names, err := filepath.Glob("manifests/*")
	if err != nil || len(names) < 8 {
		t.Fatalf("manifests: %v, %v", names, err)
	}
	for _, name := range names {
		w.files[filepath.Base(name)] = read(t, name)
	}
	w.readme = read(t, "README.md")
	w.secrets = secretsOf(w.readme)
	if len(w.secrets) < 5 {
		t.Fatalf("the README makes only the Secrets %v", w.secrets)
	}
	return w
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// spoilt is a world with one mistake.
type spoilt struct{ file, old, with, want string }

// spoil makes the mistake.
func (s spoilt) spoil(t *testing.T, w *world) *world {
	t.Helper()
	bad := *w
	text := w.files[s.file]
	if s.file == "README.md" {
		text = w.readme
	}
	if !strings.Contains(text, s.old) {
		t.Fatalf("%s has no %q to spoil", s.file, s.old)
	}
	text = strings.ReplaceAll(text, s.old, s.with)
	if s.file == "README.md" {
		bad.readme, bad.secrets = text, secretsOf(text)
		return &bad
	}
	bad.files = maps.Clone(w.files)
	bad.files[s.file] = text
	return &bad
}

// check is one of the checks with the mistakes that it must find.
type check struct {
	name     string
	find     func(*world) problems
	mistakes []spoilt
}

// run runs the check on the manifests as they are, then on the spoilt ones.
func (c check) run(t *testing.T, w *world) {
	t.Helper()
	t.Run(c.name, func(t *testing.T) {
		for _, p := range c.find(w) {
			t.Error(p)
		}
		for _, s := range c.mistakes {
			bad := s.spoil(t, w)
			var found problems
			if bad.objects, found = decode(bad.files); len(found) > 0 {
				t.Errorf("%s: with %q it does not decode: %v", s.file, s.with, found)
				continue
			}
			if found = c.find(bad); !strings.Contains(strings.Join(found, "\n"), s.want) {
				t.Errorf("%s: with %q instead of %q the check finds %q, want %q", s.file, s.with, s.old, found, s.want)
			}
		}
	})
}

func TestManifestsDecode(t *testing.T) {
	w := load(t)
	objects, found := decode(w.files)
	for _, p := range found {
		t.Error(p)
	}
	have := map[string]bool{}
	for _, o := range objects {
		have[o.kind] = true
		if s, ok := o.Object.(*corev1.Service); ok && s.Spec.Type != "" {
			have[string(s.Spec.Type)] = true
		}
	}
	for _, kind := range []string{
		"Deployment", "StatefulSet", "ConfigMap", "PodDisruptionBudget", "NetworkPolicy", "HorizontalPodAutoscaler",
		"ClusterIP", "NodePort", "LoadBalancer", "Ingress", "ServiceAccount", "Role", "RoleBinding",
	} {
		if !have[kind] {
			t.Errorf("there is no %s", kind)
		}
	}
	for _, s := range []spoilt{
		{"agent.yaml", "minReadySeconds: 10", "minReadySecond: 10", `unknown field "minReadySecond"`},
		{"agent.yaml", "replicas: 2\n", "replicas: 2\n  replicas: 3\n", `key "replicas" already set`},
		{"agent.yaml", "replicas: 2", `replicas: "2"`, "cannot unmarshal string"},
		{"agent.yaml", "kind: Deployment", "kind: Deploymend", "unknown kind apps/v1/Deploymend"},
		{"agent.yaml", "apps/v1", "apps/v1beta1", "unknown kind apps/v1beta1/Deployment"},
		{"agent.yaml", "verbs: [get", "verb: [get", `unknown field "verb"`},
		{"agent.yaml", "cpu: 500m", "cpu: 500 m", "quantities must match"},
		{"triton.yaml", "name: triton-llama\n  namespace: inference\nspec:\n  clusterIP", "name: triton-llama\nspec:\n  clusterIP", `is in the namespace ""`},
		{"service-nodeport.yaml", "triton-inference-nodeport", "triton-inference", "is not the only one"},
		{"hpa.yaml", "# How many Triton pods", "", "does not say"},
		{"hpa.yaml", "spec:", "spec: }", "document 1"},
	} {
		if _, found := decode(s.spoil(t, w).files); !strings.Contains(strings.Join(found, "\n"), s.want) {
			t.Errorf("%s: with %q instead of %q: %q, want %q", s.file, s.with, s.old, found, s.want)
		}
	}
}

func TestSecretsOf(t *testing.T) {
	got := secretsOf("kubectl -n x create secret generic a --from-file=b --from-file=dir/c --from-file=d=e\n" +
		"kubectl create secret tls f --cert=g --key=h\nnot kubectl create secret generic i --from-file=j\n")
	want := map[string]map[string]string{"a": {"b": "b", "c": "dir/c", "d": "e"}, "f": {"tls.crt": "g", "tls.key": "h"}}
	if !maps.EqualFunc(got, want, maps.Equal[map[string]string, map[string]string]) {
		t.Errorf("got %v, want %v", got, want)
	}
}
