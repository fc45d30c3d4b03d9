package hyperpod

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	sim "github.com/evenkeel/evenkeel/internal/sim/hyperpod"
	"github.com/evenkeel/evenkeel/remediate/incident"
)

// effect is what an error claims about a call.
func effect(err error) string {
	switch {
	case err == nil:
		return "done"
	case errors.Is(err, incident.ErrNotExecuted):
		return "nothing"
	}
	return "ambiguous"
}

// writes are both Batch operations.
var writes = map[string]func(*Client, context.Context, incident.MachineCall) error{
	opBatchReplace: (*Client).Replace,
	opBatchReboot:  (*Client).Reboot,
}

// TestWritesOverTheWire injects each fault into the calls of the real SDK over
// real connections. However often the SDK would retry, the service sees one
// request, and what the client claims agrees with what the service did.
func TestWritesOverTheWire(t *testing.T) {
	t.Setenv("AWS_MAX_ATTEMPTS", "5")
	t.Setenv("AWS_RETRY_MODE", "adaptive")
	for _, test := range []struct {
		fault        sim.Fault
		want         string
		wantAccepted int
	}{
		{fault: sim.Fault{}, want: "done", wantAccepted: 1},
		{fault: sim.Fault{Delay: 30 * time.Millisecond}, want: "done", wantAccepted: 1},
		{fault: sim.Fault{Kind: sim.Throttle}, want: "nothing"},
		{fault: sim.Fault{Kind: sim.NotFoundLie}, want: "nothing"},
		{fault: sim.Fault{Kind: sim.NodeError, Code: "InstanceIdNotFound"}, want: "nothing"},
		{fault: sim.Fault{Kind: sim.NodeError, Code: "InvalidInstanceStatus"}, want: "nothing"},
		{fault: sim.Fault{Kind: sim.NodeError, Code: "InstanceIdInUse"}, want: "nothing"},
		{fault: sim.Fault{Kind: sim.NodeError, Code: "InternalServerError"}, want: "ambiguous"},
		{fault: sim.Fault{Kind: sim.InternalFailure}, want: "ambiguous"},
		{fault: sim.Fault{Kind: sim.Unavailable}, want: "ambiguous"},
		{fault: sim.Fault{Kind: sim.Hang}, want: "ambiguous"},
		{fault: sim.Fault{Kind: sim.AnswerLost}, want: "ambiguous", wantAccepted: 1},
		{fault: sim.Fault{Kind: sim.AnswerHangs}, want: "ambiguous", wantAccepted: 1},
		{fault: sim.Fault{Kind: sim.Garbage}, want: "ambiguous", wantAccepted: 1},
		{fault: sim.Fault{Kind: sim.EmptyAnswer}, want: "ambiguous", wantAccepted: 1},
	} {
		for operation, write := range writes {
			t.Run(operation+" "+string(test.fault.Kind)+test.fault.Code, func(t *testing.T) {
				server, client := newCluster(t, sim.Options{ReplaceTakes: time.Hour, RebootTakes: time.Hour}, Options{})
				server.Inject(operation, sim.Repeat(5, test.fault)...)
				id := server.Instances()[0].ID
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				if test.fault.Kind == sim.Hang || test.fault.Kind == sim.AnswerHangs {
					time.AfterFunc(300*time.Millisecond, cancel)
				}
				err := write(client, ctx, incident.MachineCall{InstanceID: id})
				if got := effect(err); got != test.want {
					t.Errorf("%s() = %v, claims %q, want %q", operation, err, got, test.want)
				}
				server.Close() // ends what hangs, so that the call below is recorded
				var calls, accepted int
				for _, c := range server.Calls() {
					if c.Operation == operation {
						calls++
						accepted += len(c.Accepted)
					}
				}
				if calls != 1 || accepted != test.wantAccepted {
					t.Errorf("the service saw %d calls and accepted %d, want 1 and %d", calls, accepted, test.wantAccepted)
				}
			})
		}
	}
}

// TestNeverSent holds that what cannot have been executed is said not to be.
func TestNeverSent(t *testing.T) {
	call := incident.MachineCall{InstanceID: "i-00000000000000001"}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + closed.Addr().String()
	closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for _, test := range []struct {
		name, endpoint string
		env            map[string]string
		ctx            func(context.Context) context.Context
	}{
		{name: "connection refused", endpoint: nobody},
		{name: "no TLS at the other end", endpoint: strings.Replace(plain.URL, "http://", "https://", 1)},
		{name: "no credentials", endpoint: plain.URL, env: map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}},
		{name: "ended context", endpoint: plain.URL, ctx: func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			client := newClient(t, test.endpoint, Options{})
			client.lever = known(leverBatch) // so that the Batch call itself is tried
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if test.ctx != nil {
				ctx = test.ctx(ctx)
			}
			if err := client.Replace(ctx, call); effect(err) != "nothing" {
				t.Errorf("Replace() = %v, which does not wrap ErrNotExecuted", err)
			}
		})
	}
}

// known is an answer that is always at hand.
func known[T any](value T) shared[T] {
	s := newShared[T](time.Hour, time.Now)
	s.have, s.value, s.at = true, value, time.Now()
	return s
}

// TestStrangeAnswers holds that what no SageMaker would answer proves nothing,
// and that a call follows no redirect.
func TestStrangeAnswers(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a call was redirected to %s", r.URL)
	}))
	defer elsewhere.Close()
	for _, test := range []struct {
		name   string
		status int
		header http.Header
		body   string
		want   string
	}{
		{name: "accepted", status: 200, body: `{"Successful":["i-00000000000000001"]}`, want: "done"},
		{name: "another instance", status: 200, body: `{"Successful":["i-00000000000000002"]}`, want: "ambiguous"},
		{name: "nothing at all", status: 200, want: "ambiguous"},
		{name: "null", status: 200, body: `null`, want: "ambiguous"},
		{name: "a proxy's page", status: 403, body: `<html>Forbidden</html>`, want: "ambiguous"},
		{name: "a page that says all is well", status: 200, body: `<html>OK</html>`, want: "ambiguous"},
		{name: "an error without a name", status: 400, body: `{}`, want: "ambiguous"},
		{name: "an error by header", status: 400, header: http.Header{"X-Amzn-Errortype": {"ThrottlingException"}}, body: `{}`, want: "nothing"},
		{name: "an error with a namespace", status: 400, body: `{"__type":"com.amazon.coral.service#ThrottlingException","message":"Rate exceeded"}`, want: "nothing"},
		{name: "not allowed", status: 400, body: `{"__type":"AccessDeniedException","Message":"no"}`, want: "nothing"},
		{name: "redirect", status: 307, header: http.Header{"Location": {elsewhere.URL}}, want: "ambiguous"},
		{name: "permanent redirect", status: 308, header: http.Header{"Location": {elsewhere.URL}}, body: `{"__type":"ValidationException"}`, want: "ambiguous"},
		{name: "wrong length", status: 200, header: http.Header{"Content-Length": {"100"}}, body: `{"Successful":["i-00000000000000001"]}`, want: "ambiguous"},
	} {
		t.Run(test.name, func(t *testing.T) {
			requests := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				requests++
				maps.Copy(w.Header(), test.header)
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			}))
			defer server.Close()
			client := newClient(t, server.URL, Options{})
			client.lever = known(leverBatch)
			if err := client.Replace(t.Context(), incident.MachineCall{InstanceID: "i-00000000000000001"}); effect(err) != test.want {
				t.Errorf("Replace() = %v, claims %q, want %q", err, effect(err), test.want)
			}
			if requests != 1 {
				t.Errorf("%d requests were sent, want 1", requests)
			}
		})
	}
}

func TestLever(t *testing.T) {
	for _, test := range []struct {
		recovery   string
		want       string
		wantWrites int
	}{
		{recovery: sim.RecoveryNone, want: "done", wantWrites: 1},
		{recovery: sim.RecoveryAutomatic, want: "nothing"},
		{recovery: "Sometimes", want: "nothing"},
		{recovery: "none", want: "nothing"},
	} {
		for operation, write := range writes {
			t.Run(operation+" "+test.recovery, func(t *testing.T) {
				server, client := newCluster(t, sim.Options{NodeRecovery: test.recovery}, Options{})
				err := write(client, t.Context(), incident.MachineCall{InstanceID: server.Instances()[0].ID})
				if effect(err) != test.want {
					t.Errorf("%s() with NodeRecovery %s = %v, want %s", operation, test.recovery, err, test.want)
				}
				if got := count(server, operation); got != test.wantWrites {
					t.Errorf("the service saw %d calls, want %d", got, test.wantWrites)
				}
			})
		}
	}
}

// TestLeverIsAskedForAgain holds that a change of NodeRecovery is seen by the
// first call after the time for which answers are shared.
func TestLeverIsAskedForAgain(t *testing.T) {
	now := time.Now()
	server, client := newCluster(t, sim.Options{RebootTakes: 0}, Options{Now: func() time.Time { return now }, ShareFor: 2 * time.Second})
	reboot := func() string {
		return effect(client.Reboot(t.Context(), incident.MachineCall{InstanceID: server.Instances()[0].ID}))
	}
	first := reboot()
	server.SetNodeRecovery(sim.RecoveryAutomatic)
	now = now.Add(2*time.Second - time.Nanosecond)
	second := reboot()
	now = now.Add(time.Nanosecond)
	third := reboot()
	if diff := cmp.Diff([]string{"done", "done", "nothing"}, []string{first, second, third}); diff != "" {
		t.Errorf("effects differ (-want +got):\n%s", diff)
	}
	if got := count(server, opDescribeCluster); got != 2 {
		t.Errorf("DescribeCluster was called %d times, want 2", got)
	}
}

func TestLeverThatCannotBeRead(t *testing.T) {
	server, client := newCluster(t, sim.Options{}, Options{})
	server.Inject(opDescribeCluster, sim.Repeat(10, sim.Fault{Kind: sim.Garbage})...)
	err := client.Replace(t.Context(), incident.MachineCall{InstanceID: server.Instances()[0].ID})
	if effect(err) != "nothing" || count(server, opBatchReplace) != 0 {
		t.Errorf("Replace() = %v after %d calls, want ErrNotExecuted after none", err, count(server, opBatchReplace))
	}
}

func TestSimulated(t *testing.T) {
	simulated := incident.MachineCall{InstanceID: "i-00000000000000001", Simulated: true}
	server, client := newCluster(t, sim.Options{}, Options{})
	if err := client.Replace(t.Context(), simulated); err != nil {
		t.Errorf("Replace() of a simulated fault on loopback = %v, want nil", err)
	}
	if got := count(server, opBatchReplace); got != 1 {
		t.Errorf("the service saw %d calls, want 1", got)
	}
	for _, endpoint := range []string{"", "https://api.sagemaker.us-west-2.amazonaws.com", "https://localhost.example.com", "https://10.0.0.1"} {
		client := newClient(t, endpoint, Options{http: unreachable{t}})
		for operation, write := range writes {
			if err := write(client, t.Context(), simulated); effect(err) != "nothing" {
				t.Errorf("%s() of a simulated fault at %q = %v, want ErrNotExecuted", operation, endpoint, err)
			}
		}
	}
	// The near miss: the same call for a real fault would be sent.
	probe := &probe{}
	client = newClient(t, "https://localhost.example.com", Options{http: probe})
	_ = client.Replace(t.Context(), incident.MachineCall{InstanceID: simulated.InstanceID})
	if probe.requests == 0 {
		t.Error("a real call was not sent off loopback")
	}
}

// unreachable fails the test when anything is sent.
type unreachable struct{ t *testing.T }

func (u unreachable) Do(r *http.Request) (*http.Response, error) {
	u.t.Errorf("%s was called", r.URL)
	return nil, errors.New("unreachable")
}

// probe counts requests and answers none.
type probe struct{ requests int }

func (p *probe) Do(*http.Request) (*http.Response, error) {
	p.requests++
	return nil, context.Canceled
}

func TestIsLoopback(t *testing.T) {
	for endpoint, want := range map[string]bool{
		"http://127.0.0.1:9000":                        true,
		"https://127.8.9.10":                           true,
		"http://[::1]:9000":                            true,
		"http://[::ffff:127.0.0.1]:9000":               true,
		"http://localhost:9000":                        true,
		"":                                             false,
		"127.0.0.1:9000":                               false,
		"http://localhost.example.com":                 false,
		"http://127.0.0.1.example.com":                 false,
		"http://example.com/127.0.0.1":                 false,
		"http://127.0.0.1@example.com":                 false,
		"http://0.0.0.0:9000":                          false,
		"http://10.0.0.1":                              false,
		"http://0x7f.1":                                false,
		"http://2130706433":                            false,
		"http://ip6-localhost":                         false,
		"http://[::ffff:10.0.0.1]":                     false,
		"http://api.sagemaker.us-west-2.amazonaws.com": false,
	} {
		if got := isLoopback(endpoint); got != want {
			t.Errorf("isLoopback(%q) = %t, want %t", endpoint, got, want)
		}
	}
}

func TestMalformedInstanceIDIsNeverSent(t *testing.T) {
	client := newClient(t, "http://127.0.0.1:1", Options{http: unreachable{t}})
	for _, id := range []string{"", "i-1", "ip-10-1-0-1", "i-0123456789abcdef0,i-0123456789abcdef1", "I-0123456789ABCDEF0"} {
		if err := client.Replace(t.Context(), incident.MachineCall{InstanceID: id}); effect(err) != "nothing" {
			t.Errorf("Replace(%q) = %v, want ErrNotExecuted", id, err)
		}
		if _, err := client.Instance(t.Context(), id); err == nil || errors.Is(err, incident.ErrNotFound) {
			t.Errorf("Instance(%q) = %v, want an error that is no answer", id, err)
		}
	}
}

// FuzzBatchAnswer holds that no answer whatever is taken for more than it says:
// success only for the instance named, and proof of no effect only from a
// refusal.
func FuzzBatchAnswer(f *testing.F) {
	f.Add(200, []byte(`{"Successful":["i-00000000000000001"]}`))
	f.Add(200, []byte(`{"Failed":[{"NodeId":"i-00000000000000001","ErrorCode":"InstanceIdInUse","Message":"m"}]}`))
	f.Add(200, []byte(`{"Failed":[null],"Successful":[null]}`))
	f.Add(400, []byte(`{"__type":"ThrottlingException","message":"Rate exceeded"}`))
	f.Add(500, []byte(`{"__type":"InternalFailure"}`))
	f.Add(204, []byte(``))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 {
			return
		}
		client := newClient(t, "http://127.0.0.1:1", Options{http: canned{status, body}})
		client.lever = known(leverBatch)
		err := client.Replace(t.Context(), incident.MachineCall{InstanceID: "i-00000000000000001"})
		success := status >= 200 && status < 300
		switch effect(err) {
		case "done":
			if !success || !strings.Contains(string(body), "Successful") && !strings.Contains(string(body), `\u`) {
				t.Errorf("HTTP %d %q was taken for success", status, body)
			}
		case "nothing":
			if status >= 500 || success && !strings.Contains(string(body), "InstanceId") && !strings.Contains(string(body), `\u`) {
				t.Errorf("HTTP %d %q was taken for proof that nothing was done", status, body)
			}
		}
	})
}
