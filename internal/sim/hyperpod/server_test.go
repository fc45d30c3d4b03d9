package hyperpod

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	gocmp "github.com/google/go-cmp/cmp"
)

const (
	testKey    = "AKIDTEST"
	testSecret = "test-secret"
	testRegion = "us-west-2"
)

// signing is who signs a request for what; zero values are the right ones.
type signing struct{ key, secret, token, region, service string }

// request makes a request and signs it with the AWS SDK's signer.
func (s signing) request(t testing.TB, operation, body string, at time.Time) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1/", strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("X-Amz-Target", "SageMaker."+operation)
	hash := sha256.Sum256([]byte(body))
	credentials := aws.Credentials{AccessKeyID: cmp.Or(s.key, testKey), SecretAccessKey: cmp.Or(s.secret, testSecret), SessionToken: s.token}
	err := v4.NewSigner().SignHTTP(t.Context(), credentials, r, hex.EncodeToString(hash[:]), cmp.Or(s.service, "sagemaker"), cmp.Or(s.region, testRegion), at)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newServer(t testing.TB, o Options) *Server {
	t.Helper()
	o.Cluster, o.Region, o.AccessKey, o.SecretKey = "c1", testRegion, testKey, testSecret
	if o.Nodes == nil {
		o.Nodes = []Node{
			{IP: "10.1.0.1", InstanceID: "i-00000000000000001"},
			{IP: "10.1.0.2", InstanceID: "i-00000000000000002"},
		}
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// answer is every member that a test looks at, of any answer.
type answer struct {
	Type    string `json:"__type"`
	Message string `json:"message"`

	ClusterArn           string
	NodeRecovery         string
	NextToken            string
	ClusterNodeSummaries []struct {
		InstanceID     string `json:"InstanceId"`
		NodeLogicalID  string `json:"NodeLogicalId"`
		InstanceStatus struct{ Status string }
	}
	NodeDetails struct {
		InstanceID     string `json:"InstanceId"`
		InstanceStatus struct{ Status, Message string }
	}
	Successful               []string
	Failed                   []struct{ NodeID, ErrorCode, Message string }
	SuccessfulNodeLogicalIDs []string `json:"SuccessfulNodeLogicalIds"`
	FailedNodeLogicalIDs     []struct{ NodeLogicalID, ErrorCode string }
}

// do makes a call without a network.
func do(t testing.TB, s *Server, operation, body string) (int, answer) {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, signing{}.request(t, operation, body, time.Now()))
	var a answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatalf("%s answered %q: %v", operation, w.Body, err)
	}
	return w.Code, a
}

// statusOf gives how a read shows a node: its instance's id and status.
func statusOf(t testing.TB, s *Server, id string) string {
	t.Helper()
	_, a := do(t, s, "DescribeClusterNode", fmt.Sprintf(`{"ClusterName":"c1","NodeId":%q}`, id))
	return cmp.Or(a.Type, a.NodeDetails.InstanceStatus.Status)
}

func batchOf(ids ...string) string {
	return string(encode(map[string]any{"ClusterName": "c1", "NodeIds": ids}))
}

func TestReplace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replaced := make(chan [2]Instance, 1)
		s := newServer(t, Options{
			ReplaceTakes: 20 * time.Minute, ViewLag: 2 * time.Minute,
			OnReplaced: func(old, replacement Instance) { replaced <- [2]Instance{old, replacement} },
		})
		before := s.Instances()
		old := before[0].ID
		if _, a := do(t, s, "BatchReplaceClusterNodes", batchOf(old)); len(a.Successful) != 1 {
			t.Fatalf("BatchReplaceClusterNodes answered %+v, want success", a)
		}
		start := time.Now()
		for _, step := range []struct {
			after    time.Duration
			old, new string
		}{
			{0, "Running", "ResourceNotFound"}, // the view lags
			{time.Minute + 59*time.Second, "Running", "ResourceNotFound"},
			{2*time.Minute + time.Second, "ShuttingDown", "ResourceNotFound"},
			{7*time.Minute + time.Second, "ResourceNotFound", "Pending"},
			{21*time.Minute + 59*time.Second, "ResourceNotFound", "Pending"},
			{22*time.Minute + time.Second, "ResourceNotFound", "Running"},
		} {
			time.Sleep(time.Until(start.Add(step.after)))
			replacement := s.slots[0].timeline[2].instance.ID
			if got := statusOf(t, s, old); got != step.old {
				t.Errorf("%s after the call the old instance is %s, want %s", step.after, got, step.old)
			}
			if got := statusOf(t, s, replacement); got != step.new {
				t.Errorf("%s after the call the new instance is %s, want %s", step.after, got, step.new)
			}
		}
		pair := <-replaced
		if diff := gocmp.Diff(before[0], pair[0]); diff != "" {
			t.Errorf("OnReplaced got another old instance (-want +got):\n%s", diff)
		}
		want := before[0]
		want.ID, want.Launched = pair[1].ID, start.Add(5*time.Minute)
		if diff := gocmp.Diff([]Instance{want, before[1]}, s.Instances()); diff != "" {
			t.Errorf("instances afterwards differ (-want +got):\n%s", diff)
		}
		if pair[1].ID == old || !nodeIDPattern.MatchString(pair[1].ID) {
			t.Errorf("the new instance's id is %q, want a new id", pair[1].ID)
		}
	})
}

// TestAtWork holds that what is being replaced cannot be replaced again, while
// the view still shows it as Running.
func TestAtWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, Options{ReplaceTakes: 4 * time.Minute, ViewLag: time.Hour})
		id := s.Instances()[0].ID
		do(t, s, "BatchReplaceClusterNodes", batchOf(id))
		for _, step := range []struct {
			after time.Duration
			id    string
			want  string
		}{
			{0, id, "InstanceIdInUse"},
			{59 * time.Second, id, "InstanceIdInUse"},
			{time.Minute, id, "InstanceIdNotFound"},
			{time.Minute, s.slots[0].timeline[2].instance.ID, "InstanceIdInUse"},
			{4 * time.Minute, s.slots[0].timeline[2].instance.ID, ""},
		} {
			start := s.calls[0].Time
			time.Sleep(time.Until(start.Add(step.after)))
			_, a := do(t, s, "BatchReplaceClusterNodes", batchOf(step.id))
			got := ""
			if len(a.Failed) == 1 {
				got = a.Failed[0].ErrorCode
			}
			if got != step.want {
				t.Errorf("%s after the first call another gives %q, want %q", step.after, got, step.want)
			}
		}
	})
}

func TestReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rebooted := make(chan Instance, 2)
		s := newServer(t, Options{RebootTakes: time.Minute, OnRebooted: func(i Instance) { rebooted <- i }})
		healthy, dead := s.Instances()[0], s.Instances()[1]
		if err := s.KillInstance(dead.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		if got := statusOf(t, s, dead.ID); got != "Running" {
			t.Errorf("dead hardware is shown as %s, want Running", got)
		}
		do(t, s, "BatchRebootClusterNodes", batchOf(healthy.ID, dead.ID))
		if got := statusOf(t, s, healthy.ID); got != "Pending" {
			t.Errorf("a rebooting instance is shown as %s, want Pending", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := statusOf(t, s, healthy.ID); got != "Running" {
			t.Errorf("a rebooted instance is shown as %s, want Running", got)
		}
		if got := statusOf(t, s, dead.ID); got != "Failure" {
			t.Errorf("dead hardware is shown as %s after a reboot, want Failure", got)
		}
		if got := len(rebooted); got != 1 {
			t.Fatalf("%d instances came back, want 1", got)
		}
		if got := <-rebooted; got != healthy {
			t.Errorf("%v came back, want %v", got, healthy)
		}
		if _, a := do(t, s, "BatchRebootClusterNodes", batchOf(dead.ID)); len(a.Failed) != 1 || a.Failed[0].ErrorCode != "InvalidInstanceStatus" {
			t.Errorf("a reboot of what has failed is answered %+v, want InvalidInstanceStatus", a)
		}
		if _, a := do(t, s, "BatchReplaceClusterNodes", batchOf(dead.ID)); len(a.Successful) != 1 {
			t.Errorf("a replacement of what has failed is answered %+v, want success", a)
		}
	})
}

func TestClosedServerDoesNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, Options{ReplaceTakes: time.Minute, OnReplaced: func(old, _ Instance) { t.Errorf("%s was replaced after Close", old.ID) }})
		do(t, s, "BatchReplaceClusterNodes", batchOf(s.Instances()[0].ID))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
	})
}

// TestFaults holds for each kind of fault whether the call was executed and
// what the caller is told.
func TestFaults(t *testing.T) {
	for _, test := range []struct {
		fault        Fault
		wantStatus   int // 0: no answer
		wantType     string
		wantAccepted int
	}{
		{fault: Fault{}, wantStatus: 200, wantAccepted: 1},
		{fault: Fault{Delay: time.Hour}, wantStatus: 200, wantAccepted: 1},
		{fault: Fault{Kind: Throttle}, wantStatus: 400, wantType: "ThrottlingException"},
		{fault: Fault{Kind: InternalFailure}, wantStatus: 500, wantType: "InternalFailure"},
		{fault: Fault{Kind: Unavailable}, wantStatus: 503, wantType: "ServiceUnavailable"},
		{fault: Fault{Kind: NotFoundLie}, wantStatus: 400, wantType: "ResourceNotFound"},
		{fault: Fault{Kind: NodeError, Code: "InternalServerError"}, wantStatus: 200},
		{fault: Fault{Kind: Hang}},
		{fault: Fault{Kind: AnswerLost}, wantAccepted: 1},
		{fault: Fault{Kind: AnswerHangs}, wantAccepted: 1},
		{fault: Fault{Kind: Garbage}, wantStatus: 200, wantAccepted: 1},
		{fault: Fault{Kind: EmptyAnswer}, wantStatus: 200, wantAccepted: 1},
	} {
		t.Run(cmp.Or(string(test.fault.Kind), "none"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t, Options{})
				s.Inject("BatchReplaceClusterNodes", test.fault)
				w := httptest.NewRecorder()
				aborted := false
				func() {
					defer func() {
						p := recover()
						err, _ := p.(error)
						if aborted = errors.Is(err, http.ErrAbortHandler); !aborted && p != nil {
							panic(p)
						}
					}()
					time.AfterFunc(2*time.Hour, func() { s.Close() }) // ends what hangs
					s.ServeHTTP(w, signing{}.request(t, "BatchReplaceClusterNodes", batchOf("i-00000000000000001"), time.Now()))
				}()
				if aborted != (test.wantStatus == 0) {
					t.Fatalf("the connection was closed without an answer: %t, want %t", aborted, test.wantStatus == 0)
				}
				var a answer
				if err := json.Unmarshal(w.Body.Bytes(), &a); !aborted && (err == nil) == (test.fault.Kind == Garbage) {
					t.Errorf("the answer is %q", w.Body)
				}
				if !aborted && (w.Code != test.wantStatus || a.Type != test.wantType) {
					t.Errorf("the answer is HTTP %d %q, want HTTP %d %q", w.Code, a.Type, test.wantStatus, test.wantType)
				}
				calls := s.Calls()
				if len(calls) != 1 || len(calls[0].Accepted) != test.wantAccepted {
					t.Errorf("Calls() = %+v, want one with %d accepted", calls, test.wantAccepted)
				}
				if want := cmp.Or(string(test.fault.Kind), "ok"); calls[0].Outcome != want {
					t.Errorf("Calls()[0].Outcome = %q, want %q", calls[0].Outcome, want)
				}
			})
		})
	}
}

func TestFaultsComeInOrder(t *testing.T) {
	s := newServer(t, Options{})
	s.Inject("DescribeCluster", Repeat(2, Fault{Kind: Throttle})...)
	s.Inject("DescribeCluster", Fault{Kind: InternalFailure})
	var got []int
	for range 4 {
		status, _ := do(t, s, "DescribeCluster", `{"ClusterName":"c1"}`)
		got = append(got, status)
	}
	if status, _ := do(t, s, "ListClusterNodes", `{"ClusterName":"c1"}`); status != 200 {
		t.Errorf("another operation is answered %d, want 200", status)
	}
	if diff := gocmp.Diff([]int{400, 400, 500, 200}, got); diff != "" {
		t.Errorf("statuses differ (-want +got):\n%s", diff)
	}
}

func TestListen(t *testing.T) {
	s := newServer(t, Options{})
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0", "localhost:0", "127.0.0.1"} {
		if url, err := s.Listen(address); err == nil {
			t.Errorf("Listen(%q) = %s, want an error", address, url)
		}
	}
	url, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(url, contentType, bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("an unsigned request is answered %d, want 400", response.StatusCode)
	}
}

func TestNewRefuses(t *testing.T) {
	whole := Options{Cluster: "c", Region: "r", AccessKey: "a", SecretKey: "s", Nodes: []Node{{IP: "10.0.0.1"}}}
	if _, err := New(whole); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"cluster": func(o *Options) { o.Cluster = "" },
		"secret":  func(o *Options) { o.SecretKey = "" },
		"address": func(o *Options) { o.Nodes = []Node{{IP: "fd00::1"}} },
		"name":    func(o *Options) { o.Nodes = []Node{{IP: "ip-10-0-0-1"}} },
	} {
		o := whole
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("New() without a good %s = no error, want one", name)
		}
	}
}
