package hyperpod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	sim "github.com/evenkeel/evenkeel/internal/sim/hyperpod"
	"github.com/evenkeel/evenkeel/remediate/incident"
)

func nodes(n int) []sim.Node {
	all := make([]sim.Node, n)
	for i := range all {
		all[i] = sim.Node{IP: fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), InstanceID: fmt.Sprintf("i-%017x", i+1), Group: "worker"}
	}
	return all
}

func TestInstanceAndAtNodeAgree(t *testing.T) {
	server, client := newCluster(t, sim.Options{Nodes: nodes(3)}, Options{})
	for _, want := range server.Instances() {
		for name, read := range map[string]func() (incident.Machine, error){
			"Instance": func() (incident.Machine, error) { return client.Instance(t.Context(), want.ID) },
			"AtNode":   func() (incident.Machine, error) { return client.AtNode(t.Context(), want.Node) },
		} {
			got, err := read()
			if err != nil {
				t.Fatalf("%s() = %v", name, err)
			}
			if d := got.Launched.Sub(want.Launched).Abs(); d > time.Millisecond {
				t.Errorf("%s().Launched is %s off", name, d)
			}
			got.Launched = time.Time{}
			if diff := cmp.Diff(incident.Machine{InstanceID: want.ID, Node: want.Node, Group: "worker", Status: "Running", Running: true}, got); diff != "" {
				t.Errorf("%s() differs (-want +got):\n%s", name, diff)
			}
		}
	}
}

// TestPages holds that every node of a cluster of several pages is found, by
// one listing, also where summaries do not carry names.
func TestPages(t *testing.T) {
	for _, test := range []struct {
		name          string
		nodes         int
		withoutDNS    bool
		wantLists     int
		wantDescribes int
	}{
		{name: "one full page", nodes: 100, wantLists: 1},
		{name: "one node more", nodes: 101, wantLists: 2},
		{name: "230 nodes", nodes: 230, wantLists: 3},
		{name: "names by description", nodes: 101, withoutDNS: true, wantLists: 2, wantDescribes: 101},
	} {
		t.Run(test.name, func(t *testing.T) {
			now := time.Now()
			server, client := newCluster(t, sim.Options{Nodes: nodes(test.nodes), SummariesWithoutDNS: test.withoutDNS},
				Options{Now: func() time.Time { return now }})
			for _, want := range server.Instances() {
				if got, err := client.AtNode(t.Context(), want.Node); err != nil || got.InstanceID != want.ID {
					t.Fatalf("AtNode(%s) = %s, %v, want %s", want.Node, got.InstanceID, err, want.ID)
				}
			}
			if got := count(server, opListNodes); got != test.wantLists {
				t.Errorf("ListClusterNodes was called %d times, want %d", got, test.wantLists)
			}
			now = now.Add(time.Minute) // names are remembered, statuses are not
			if _, err := client.AtNode(t.Context(), "ip-10-1-0-1"); err != nil {
				t.Fatal(err)
			}
			if got := count(server, opListNodes); got != 2*test.wantLists {
				t.Errorf("ListClusterNodes was called %d times after a minute, want %d", got, 2*test.wantLists)
			}
			if got := count(server, opDescribeNode); got != test.wantDescribes {
				t.Errorf("DescribeClusterNode was called %d times, want %d", got, test.wantDescribes)
			}
		})
	}
}

// TestReplacementAsSeen follows a replacement through a lagging view, in hours
// that pass at once.
func TestReplacementAsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, err := sim.New(simOptions(sim.Options{ReplaceTakes: 20 * time.Minute, ViewLag: 3 * time.Minute}))
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		client := newClient(t, "http://127.0.0.1:1", Options{http: inProcess{server}})
		old := server.Instances()[0]
		start := time.Now()
		if err := client.Replace(t.Context(), incident.MachineCall{InstanceID: old.ID}); err != nil {
			t.Fatal(err)
		}
		at := func(after time.Duration) (instance, node string) {
			time.Sleep(time.Until(start.Add(after)))
			show := func(m incident.Machine, err error) string {
				switch {
				case errors.Is(err, incident.ErrNotFound):
					return "not found"
				case err != nil:
					return err.Error()
				case m.InstanceID != old.ID:
					return fmt.Sprintf("new %s %t", m.Status, m.Running)
				}
				return fmt.Sprintf("old %s %t", m.Status, m.Running)
			}
			return show(client.Instance(t.Context(), old.ID)), show(client.AtNode(t.Context(), old.Node))
		}
		for _, step := range []struct {
			after          time.Duration
			instance, node string
		}{
			{time.Second, "old Running true", "old Running true"},
			{2*time.Minute + 59*time.Second, "old Running true", "old Running true"},
			{3*time.Minute + 3*time.Second, "old ShuttingDown false", "old ShuttingDown false"},
			{8*time.Minute + 3*time.Second, "not found", "new Pending false"},
			{22*time.Minute + 59*time.Second, "not found", "new Pending false"},
			{23*time.Minute + 3*time.Second, "not found", "new Running true"},
		} {
			instance, node := at(step.after)
			if instance != step.instance || node != step.node {
				t.Errorf("%s after the call: Instance() %s, AtNode() %s, want %s, %s", step.after, instance, node, step.instance, step.node)
			}
		}
	})
}

func TestNotFound(t *testing.T) {
	const unknown = "i-0000000000000ffff"
	t.Run("an instance that there is not", func(t *testing.T) {
		_, client := newCluster(t, sim.Options{}, Options{})
		if _, err := client.Instance(t.Context(), unknown); !errors.Is(err, incident.ErrNotFound) {
			t.Errorf("Instance() = %v, want ErrNotFound", err)
		}
		if _, err := client.AtNode(t.Context(), "ip-10-9-9-9"); !errors.Is(err, incident.ErrNotFound) {
			t.Errorf("AtNode() = %v, want ErrNotFound", err)
		}
	})
	t.Run("a cluster that there is not", func(t *testing.T) {
		server, client := newCluster(t, sim.Options{}, Options{})
		client.cluster = "c2"
		if _, err := client.Instance(t.Context(), server.Instances()[0].ID); err == nil || errors.Is(err, incident.ErrNotFound) {
			t.Errorf("Instance() = %v, want an error that is no answer", err)
		}
		if _, err := client.AtNode(t.Context(), "ip-10-1-0-1"); err == nil || errors.Is(err, incident.ErrNotFound) {
			t.Errorf("AtNode() = %v, want an error that is no answer", err)
		}
	})
	t.Run("an instance that is denied and listed", func(t *testing.T) {
		server, client := newCluster(t, sim.Options{}, Options{})
		server.Inject(opDescribeNode, sim.Fault{Kind: sim.NotFoundLie})
		if _, err := client.Instance(t.Context(), server.Instances()[0].ID); err == nil || errors.Is(err, incident.ErrNotFound) {
			t.Errorf("Instance() = %v, want an error that is no answer", err)
		}
	})
}

// scripted answers each operation with a fixed body, HTTP 200.
type scripted map[string]string

func (s scripted) Do(r *http.Request) (*http.Response, error) {
	return canned{200, []byte(s[strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "SageMaker.")])}.Do(r)
}

// listOf is ListClusterNodes's answer with nodes given as "name id status launched".
func listOf(entries ...string) string {
	type status struct{ Status string }
	type node struct {
		InstanceID         string `json:"InstanceId,omitempty"`
		PrivateDNSHostname string `json:"PrivateDnsHostname,omitempty"`
		LaunchTime         int
		InstanceStatus     status
	}
	all := struct{ ClusterNodeSummaries []node }{[]node{}}
	for _, e := range entries {
		var n node
		if _, err := fmt.Sscan(e, &n.PrivateDNSHostname, &n.InstanceID, &n.InstanceStatus.Status, &n.LaunchTime); err != nil {
			panic(err)
		}
		n.PrivateDNSHostname = strings.Trim(n.PrivateDNSHostname, "-")
		n.InstanceID = strings.Trim(n.InstanceID, "-")
		all.ClusterNodeSummaries = append(all.ClusterNodeSummaries, n)
	}
	content, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return string(content)
}

func TestAtNodeChooses(t *testing.T) {
	const a, b = "i-0000000000000000a", "i-0000000000000000b"
	for _, test := range []struct {
		name         string
		list         string
		want         string // instance id and status
		wantErr      bool
		wantNotFound bool
	}{
		{name: "the one", list: listOf("n1.x " + a + " Running 1"), want: a + " Running"},
		{name: "the later launch", list: listOf("n1.x "+a+" ShuttingDown 1", "n1.x "+b+" Pending 2"), want: b + " Pending"},
		{name: "the later launch, listed first", list: listOf("n1.x "+b+" Pending 2", "n1.x "+a+" ShuttingDown 1"), want: b + " Pending"},
		{name: "not one that is gone", list: listOf("n1.x "+a+" Running 1", "n1.x "+b+" NotFound 2"), want: a + " Running"},
		{name: "only one that is gone", list: listOf("n1.x " + b + " NotFound 2"), wantErr: true, wantNotFound: true},
		{name: "other names", list: listOf("n2.x "+a+" Running 1", "n11.x "+b+" Running 1"), wantErr: true, wantNotFound: true},
		{name: "no nodes", list: listOf(), wantErr: true, wantNotFound: true},
		{name: "one without a name", list: listOf("n2.x "+a+" Running 1", "- "+b+" Pending 2"), wantErr: true},
		{name: "one without an instance", list: listOf("n2.x "+a+" Running 1", "- - Pending 2"), wantErr: true},
		{name: "an unknown status", list: listOf("n1.x " + a + " Rebooting 1"), want: a + " Rebooting", wantErr: true},
		{name: "Failed for Failure", list: listOf("n1.x " + a + " Failed 1"), want: a + " Failed"},
		{name: "no list", list: `{}`, wantErr: true},
		{name: "an empty answer", list: ``, wantErr: true},
		{name: "half a list", list: `{"ClusterNodeSummaries":[{"InstanceId":`, wantErr: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := newClient(t, "http://127.0.0.1:1", Options{http: scripted{opListNodes: test.list, opDescribeNode: `{"NodeDetails":{}}`}})
			got, err := client.AtNode(t.Context(), "n1")
			if (err != nil) != test.wantErr || errors.Is(err, incident.ErrNotFound) != test.wantNotFound {
				t.Errorf("AtNode() = %v, want error %t, not found %t", err, test.wantErr, test.wantNotFound)
			}
			if s := strings.TrimSpace(got.InstanceID + " " + got.Status); s != test.want {
				t.Errorf("AtNode() = %q, want %q", s, test.want)
			}
			if got.Running != strings.HasSuffix(test.want, "Running") {
				t.Errorf("AtNode().Running = %t for status %s", got.Running, got.Status)
			}
		})
	}
}

func TestStatuses(t *testing.T) {
	const id = "i-0000000000000000a"
	for _, test := range []struct {
		status                                   string
		wantRunning, wantBusy, wantErr, wantGone bool
	}{
		{status: "Running", wantRunning: true},
		{status: "running", wantErr: true},
		{status: "Failure"}, {status: "Failed"},
		{status: "Pending", wantBusy: true}, {status: "ShuttingDown", wantBusy: true},
		{status: "SystemUpdating", wantBusy: true}, {status: "DeepHealthCheckInProgress", wantBusy: true},
		{status: "NotFound", wantErr: true, wantGone: true},
		{status: "", wantErr: true},
		{status: "Rebooting", wantErr: true},
	} {
		client := newClient(t, "http://127.0.0.1:1", Options{http: scripted{opDescribeNode: fmt.Sprintf(
			`{"NodeDetails":{"InstanceId":%q,"PrivatePrimaryIp":"10.1.0.1","InstanceStatus":{"Status":%q,"Message":"m"}}}`, id, test.status)}})
		m, err := client.Instance(t.Context(), id)
		if m.Running != test.wantRunning || m.Busy != test.wantBusy || (err != nil) != test.wantErr || errors.Is(err, incident.ErrNotFound) != test.wantGone {
			t.Errorf("Instance() with status %q = running %t, busy %t, %v, want running %t, busy %t, error %t, not found %t",
				test.status, m.Running, m.Busy, err, test.wantRunning, test.wantBusy, test.wantErr, test.wantGone)
		}
		if !test.wantErr && (m.Message != "m" || m.Node != "ip-10-1-0-1") {
			t.Errorf("Instance() = %+v, want message m and node ip-10-1-0-1", m)
		}
	}
	for name, body := range map[string]string{
		"another instance": `{"NodeDetails":{"InstanceId":"i-0000000000000000b","InstanceStatus":{"Status":"Running"}}}`,
		"no details":       `{}`,
		"nothing":          ``,
		"a page":           `<html>`,
	} {
		client := newClient(t, "http://127.0.0.1:1", Options{http: scripted{opDescribeNode: body}})
		if m, err := client.Instance(t.Context(), id); err == nil || errors.Is(err, incident.ErrNotFound) {
			t.Errorf("Instance() answered with %s = %+v, %v, want an error that is no answer", name, m, err)
		}
	}
}

func TestNodeName(t *testing.T) {
	for _, test := range []struct{ dns, ip, want string }{
		{"ip-10-1-2-3.us-west-2.compute.internal", "10.1.2.3", "ip-10-1-2-3"},
		{"ip-10-1-2-3", "", "ip-10-1-2-3"},
		{"", "10.1.2.3", "ip-10-1-2-3"},
		{".internal", "10.1.2.3", "ip-10-1-2-3"},
		{"", "", ""},
	} {
		if got := nodeName(test.dns, test.ip); got != test.want {
			t.Errorf("nodeName(%q, %q) = %q, want %q", test.dns, test.ip, got, test.want)
		}
	}
}

// TestReadsAreRetried is the other side of sending writes once.
func TestReadsAreRetried(t *testing.T) {
	for _, kind := range []sim.FaultKind{sim.Throttle, sim.InternalFailure, sim.AnswerLost} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, err := sim.New(simOptions(sim.Options{}))
				if err != nil {
					t.Fatal(err)
				}
				defer server.Close()
				client := newClient(t, "http://127.0.0.1:1", Options{http: inProcess{server}})
				server.Inject(opDescribeNode, sim.Repeat(2, sim.Fault{Kind: kind})...)
				if _, err := client.Instance(t.Context(), server.Instances()[0].ID); err != nil {
					t.Errorf("Instance() = %v, want nil", err)
				}
				if got := count(server, opDescribeNode); got != 3 {
					t.Errorf("DescribeClusterNode was called %d times, want 3", got)
				}
			})
		})
	}
}

func TestReadsRespectTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, err := sim.New(simOptions(sim.Options{}))
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		client := newClient(t, "http://127.0.0.1:1", Options{http: inProcess{server}})
		for _, operation := range []string{opDescribeNode, opListNodes} {
			server.Inject(operation, sim.Repeat(10, sim.Fault{Kind: sim.Hang})...)
		}
		for name, read := range map[string]func(context.Context) (incident.Machine, error){
			"Instance": func(ctx context.Context) (incident.Machine, error) {
				return client.Instance(ctx, server.Instances()[0].ID)
			},
			"AtNode": func(ctx context.Context) (incident.Machine, error) { return client.AtNode(ctx, "ip-10-1-0-1") },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			start := time.Now()
			if _, err := read(ctx); err == nil || errors.Is(err, incident.ErrNotFound) || time.Since(start) != 20*time.Second {
				t.Errorf("%s() of a service that hangs = %v after %s, want an error that is no answer after 20s", name, err, time.Since(start))
			}
			cancel()
		}
	})
}

// TestInventoryAfterWrite holds that no list from before a write is used after it.
func TestInventoryAfterWrite(t *testing.T) {
	server, client := newCluster(t, sim.Options{}, Options{ShareFor: time.Hour})
	old := server.Instances()[0]
	for range 3 {
		if _, err := client.AtNode(t.Context(), old.Node); err != nil {
			t.Fatal(err)
		}
	}
	if got := count(server, opListNodes); got != 1 {
		t.Errorf("ListClusterNodes was called %d times, want 1", got)
	}
	if err := client.Replace(t.Context(), incident.MachineCall{InstanceID: old.ID}); err != nil {
		t.Fatal(err)
	}
	if m, err := client.AtNode(t.Context(), old.Node); err != nil || m.InstanceID == old.ID {
		t.Errorf("AtNode() after the replacement = %+v, %v, want a new instance", m, err)
	}
}

func TestNamesOfInstancesThatAreGone(t *testing.T) {
	server, client := newCluster(t, sim.Options{SummariesWithoutDNS: true}, Options{})
	old := server.Instances()[0]
	if _, err := client.AtNode(t.Context(), old.Node); err != nil || client.names.get(old.ID) != old.Node {
		t.Fatalf("AtNode() = %v, and the name remembered is %q, want %q", err, client.names.get(old.ID), old.Node)
	}
	if err := client.Replace(t.Context(), incident.MachineCall{InstanceID: old.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AtNode(t.Context(), old.Node); err != nil {
		t.Fatal(err)
	}
	if got := client.names.get(old.ID); got != "" {
		t.Errorf("the name of an instance that is gone is remembered as %q", got)
	}
}
