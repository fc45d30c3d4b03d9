package hyperpod

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	sim "github.com/evenkeel/evenkeel/internal/sim/hyperpod"
	"github.com/evenkeel/evenkeel/internal/strictyaml"
	"github.com/evenkeel/evenkeel/remediate/incident"
)

const (
	testRegion = "us-west-2"
	testKey    = "AKIDTEST"
	testSecret = "test-secret"
)

func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
		"AWS_ACCESS_KEY_ID": testKey, "AWS_SECRET_ACCESS_KEY": testSecret, "AWS_SESSION_TOKEN": "", "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_SAGEMAKER": "",
	} {
		os.Setenv(name, value)
	}
	os.Exit(m.Run())
}

func simOptions(o sim.Options) sim.Options {
	o.Cluster, o.Region, o.AccessKey, o.SecretKey = "c1", testRegion, testKey, testSecret
	if o.Nodes == nil {
		o.Nodes = nodes(2)
	}
	return o
}

// newCluster serves a cluster on loopback and gives a client of it.
func newCluster(t testing.TB, cluster sim.Options, o Options) (*sim.Server, *Client) {
	t.Helper()
	server, err := sim.New(simOptions(cluster))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	endpoint, err := server.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return server, newClient(t, endpoint, o)
}

func newClient(t testing.TB, endpoint string, o Options) *Client {
	t.Helper()
	client, err := New(t.Context(), Config{ClusterName: "c1", Region: testRegion, Endpoint: endpoint}, o)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// count gives how many calls of an operation the service saw.
func count(s *sim.Server, operation string) int {
	n := 0
	for _, c := range s.Calls() {
		if c.Operation == operation {
			n++
		}
	}
	return n
}

// inProcess is a connection to a handler without a socket.
type inProcess struct{ handler http.Handler }

func (p inProcess) Do(r *http.Request) (response *http.Response, err error) {
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			response, err = nil, errors.New("connection reset by peer")
		default:
			panic(p)
		}
	}()
	r = r.Clone(r.Context())
	r.Host = r.URL.Host
	w := httptest.NewRecorder()
	p.handler.ServeHTTP(w, r)
	return w.Result(), nil
}

// canned answers everything the same.
type canned struct {
	status int
	body   []byte
}

func (c canned) Do(r *http.Request) (*http.Response, error) {
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	return &http.Response{
		StatusCode: c.status, Header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}},
		Body: io.NopCloser(bytes.NewReader(c.body)), ContentLength: int64(len(c.body)), Request: r,
	}, nil
}

func TestConfig(t *testing.T) {
	for _, test := range []struct{ yaml, wantErr string }{
		{"cluster_name: c1\nregion: us-west-2", ""},
		{"cluster_name: arn:aws:sagemaker:us-west-2:111122223333:cluster/abcdefghijkl\nregion: us-gov-east-1", ""},
		{"cluster_name: c1\nregion: us-west-2\nendpoint: http://127.0.0.1:9000", ""},
		{"cluster_name: c1\nregion: us-west-2\nendpoint: https://vpce-1.api.sagemaker.us-west-2.vpce.amazonaws.com", ""},
		{"region: us-west-2", "cluster_name:"},
		{"cluster_name: c 1\nregion: us-west-2", "cluster_name:"},
		{"cluster_name: c1", "region:"},
		{"cluster_name: c1\nregion: oregon", "region:"},
		{"cluster_name: c1\nregion: us-west-2\nendpoint: http://10.0.0.1:9000", "endpoint:"},
		{"cluster_name: c1\nregion: us-west-2\nendpoint: 127.0.0.1:9000", "endpoint:"},
		{"cluster_name: c1\nregion: us-west-2\nendpoint: https://", "endpoint:"},
		{"cluster_name: c1\nregion: us-west-2\nendpoint: https://user@host", "endpoint:"},
		{"cluster_name: c1\nregion: us-west-2\nendpoint: https://host/path", "endpoint:"},
		{"cluster_name: c1\nregion: us-west-2\nendpoint: 'http://[::1'", "endpoint:"},
		{"cluster_name: c1\nregion: us-west-2\nprofile: p", "profile"},
	} {
		var c Config
		err := strictyaml.Decode([]byte(test.yaml), &c)
		if (err == nil) != (test.wantErr == "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
			t.Errorf("Decode(%q) = %v, want an error with %q", test.yaml, err, test.wantErr)
		}
	}
	if _, err := New(t.Context(), Config{}, Options{}); err == nil {
		t.Error("New() without a cluster = no error, want one")
	}
}

// TestMetadataServiceAway holds that nothing is asked of the instance metadata
// service before the first call, and that a call without credentials ends with
// its context, not executed.
func TestMetadataServiceAway(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://"+silent.Addr().String())
	t.Setenv("AWS_DEFAULTS_MODE", "auto")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")

	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	client, err := New(ctx, Config{ClusterName: "c1", Region: testRegion}, Options{http: unreachable{t}})
	if err != nil {
		t.Fatalf("New() = %v, want nil", err)
	}
	if ctx.Err() != nil {
		t.Fatal("New() waited for the metadata service")
	}
	client.lever = known(leverBatch)
	if err := client.Replace(ctx, incident.MachineCall{InstanceID: "i-00000000000000001"}); effect(err) != "nothing" {
		t.Errorf("Replace() without credentials = %v, want ErrNotExecuted", err)
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	server, client := newCluster(t, sim.Options{Nodes: nodes(4)}, Options{Registerer: registry})
	server.Inject(opBatchReplace, sim.Fault{Kind: sim.Throttle}, sim.Fault{Kind: sim.InternalFailure})
	for _, id := range []string{"i-00000000000000001", "i-00000000000000002", "i-00000000000000003"} {
		_ = client.Replace(t.Context(), incident.MachineCall{InstanceID: id})
	}
	_ = client.Reboot(t.Context(), incident.MachineCall{InstanceID: "i-00000000000000004"})
	_, _ = client.Instance(t.Context(), "i-0000000000000ffff")
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP evenkeel_remediator_hyperpod_calls_total Calls to HyperPod by operation and outcome; a call that is retried counts once. Ambiguous calls may have taken effect.
# TYPE evenkeel_remediator_hyperpod_calls_total counter
evenkeel_remediator_hyperpod_calls_total{operation="BatchRebootClusterNodes",outcome="ambiguous"} 0
evenkeel_remediator_hyperpod_calls_total{operation="BatchRebootClusterNodes",outcome="not_executed"} 0
evenkeel_remediator_hyperpod_calls_total{operation="BatchRebootClusterNodes",outcome="ok"} 1
evenkeel_remediator_hyperpod_calls_total{operation="BatchReplaceClusterNodes",outcome="ambiguous"} 1
evenkeel_remediator_hyperpod_calls_total{operation="BatchReplaceClusterNodes",outcome="not_executed"} 1
evenkeel_remediator_hyperpod_calls_total{operation="BatchReplaceClusterNodes",outcome="ok"} 1
evenkeel_remediator_hyperpod_calls_total{operation="DescribeCluster",outcome="error"} 0
evenkeel_remediator_hyperpod_calls_total{operation="DescribeCluster",outcome="not_found"} 0
evenkeel_remediator_hyperpod_calls_total{operation="DescribeCluster",outcome="ok"} 1
evenkeel_remediator_hyperpod_calls_total{operation="DescribeClusterNode",outcome="error"} 0
evenkeel_remediator_hyperpod_calls_total{operation="DescribeClusterNode",outcome="not_found"} 1
evenkeel_remediator_hyperpod_calls_total{operation="DescribeClusterNode",outcome="ok"} 0
evenkeel_remediator_hyperpod_calls_total{operation="ListClusterNodes",outcome="error"} 0
evenkeel_remediator_hyperpod_calls_total{operation="ListClusterNodes",outcome="not_found"} 0
evenkeel_remediator_hyperpod_calls_total{operation="ListClusterNodes",outcome="ok"} 1
# HELP evenkeel_remediator_hyperpod_throttles_total Requests that HyperPod refused for their rate, retried or not.
# TYPE evenkeel_remediator_hyperpod_throttles_total counter
evenkeel_remediator_hyperpod_throttles_total{operation="BatchRebootClusterNodes"} 0
evenkeel_remediator_hyperpod_throttles_total{operation="BatchReplaceClusterNodes"} 1
evenkeel_remediator_hyperpod_throttles_total{operation="DescribeCluster"} 0
evenkeel_remediator_hyperpod_throttles_total{operation="DescribeClusterNode"} 0
evenkeel_remediator_hyperpod_throttles_total{operation="ListClusterNodes"} 0
`), "evenkeel_remediator_hyperpod_calls_total", "evenkeel_remediator_hyperpod_throttles_total"); err != nil {
		t.Error(err)
	}
}
