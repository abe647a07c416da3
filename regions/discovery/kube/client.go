package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// namespaceFile is where a pod finds the namespace that it is in.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// client lists and watches the EndpointSlices of a namespace.
type client struct {
	rest      rest.Interface
	http      *http.Client
	namespace string
}

// inCluster makes the client of a pod, by its ServiceAccount. The token is read again
// as the kubelet renews it.
func inCluster(namespace string) (*client, error) {
	config, err := rest.InClusterConfig()
	switch {
	case errors.Is(err, rest.ErrNotInCluster):
		return nil, errors.New("this is no pod of Kubernetes: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; use type dns or file elsewhere")
	case err != nil:
		return nil, fmt.Errorf("the pod has no token of its ServiceAccount; set automountServiceAccountToken: true: %w", err)
	}
	if namespace == "" {
		text, err := os.ReadFile(namespaceFile)
		if err != nil {
			return nil, fmt.Errorf("the namespace of this pod: %w; set namespace", err)
		}
		namespace = strings.TrimSpace(string(text))
	}
	return newClient(config, namespace)
}

// newClient makes a client that knows one group of the API, and waits and repeats
// only as its caller does.
func newClient(config *rest.Config, namespace string) (*client, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"}) // the server's refusals
	if err := discoveryv1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &discoveryv1.SchemeGroupVersion, "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.UserAgent = "rhumb-agent"
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{}
	hc, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	rc, err := rest.RESTClientForConfigAndClient(config, hc)
	if err != nil {
		return nil, err
	}
	return &client{rc, hc, namespace}, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// slices is the request for those of a Service.
func (c *client) slices(service string) *rest.Request {
	return c.rest.Get().MaxRetries(0).Namespace(c.namespace).Resource("endpointslices").Param("labelSelector", discoveryv1.LabelServiceName+"="+service)
}

// list asks for all of them, as they are now: without a version the API server does
// not answer from a past that it remembers.
func (c *client) list(ctx context.Context, service string) (*discoveryv1.EndpointSliceList, error) {
	list := new(discoveryv1.EndpointSliceList)
	return list, c.slices(service).Do(ctx).Into(list)
}

// watch asks for all changes since a version, until ctx is done.
func (c *client) watch(ctx context.Context, service, version string) (watch.Interface, error) {
	return c.slices(service).Param("watch", "true").Param("allowWatchBookmarks", "true").Param("resourceVersion", version).Watch(ctx)
}

// explain says what to do about an error.
func (c *client) explain(err error) error {
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("this ServiceAccount may not list and watch the EndpointSlices of the namespace %s; bind it to a Role with get, list and watch of endpointslices in discovery.k8s.io, as deploy/manifests/agent.yaml does: %w", c.namespace, err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the API server does not accept the ServiceAccount's token: %w", err)
	default:
		return err
	}
}
