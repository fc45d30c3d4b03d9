package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/exporter-toolkit/web"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/httpserve"
	"github.com/evenkeel/evenkeel/internal/sim/pki"
	"github.com/evenkeel/evenkeel/remediate/incident"
	"github.com/evenkeel/evenkeel/remediate/ingest"
)

const (
	cluster = "hp"
	nodeA   = "ip-10-1-0-1"
	nodeB   = "ip-10-1-0-2"
)

// controller holds one incident and notes what people did.
type controller struct {
	kill incident.KillSwitch
	did  []string
	err  error
}

func (c *controller) Incidents() []incident.Incident { return nil }

func (c *controller) Incident(id string) (incident.Incident, bool) {
	return incident.Incident{ID: id}, id == "inc-1"
}

func (c *controller) Holds() []incident.HoldView { return nil }

func (c *controller) KillSwitch() incident.KillSwitch { return c.kill }

func (c *controller) SetKillSwitch(_ context.Context, by, reason string) error {
	c.kill = incident.KillSwitch{On: true, By: by, Reason: reason}
	c.did = append(c.did, "set")
	return c.err
}

func (c *controller) ClearKillSwitch(_ context.Context, by string) error {
	c.kill = incident.KillSwitch{}
	c.did = append(c.did, "clear by "+by)
	return c.err
}

func (c *controller) Approve(_ context.Context, id, by string) error {
	c.did = append(c.did, "approve "+id+" by "+by)
	if id != "inc-1" {
		return fmt.Errorf("%s: %w", id, incident.ErrNotFound)
	}
	return c.err
}

// remediator is everything behind the interface.
type remediator struct {
	controller controller
	store      *ingest.Store
	woken      int
	notReady   error
}

func (r *remediator) handler(t *testing.T, access httpserve.Access) http.Handler {
	t.Helper()
	registry := prometheus.NewRegistry()
	r.store = ingest.New(ingest.Options{Cluster: cluster, MaxNodes: 2, Registerer: registry})
	h, err := New(Options{
		Access: access, Reports: r.store, Incidents: &r.controller, Controls: &r.controller,
		Nodes: func() fault.NodeList {
			list := fault.NodeList{Cluster: cluster, Nodes: []fault.NodeStatus{}}
			for _, n := range r.store.Nodes() {
				list.Nodes = append(list.Nodes, n.Status(time.Now(), time.Minute))
			}
			return list
		},
		Wake: func() { r.woken++ }, Ready: func() error { return r.notReady }, Gatherer: registry, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

var roles = httpserve.Access{Roles: map[httpserve.Role][]string{
	httpserve.RoleRead: {"collector"}, httpserve.RoleWake: {"alertmanager"}, httpserve.RoleAdmin: {"operator"},
}}

var sequence uint64

// reportOf is the body of a report of a node; each is newer than the one before.
func reportOf(node string) string {
	sequence++
	return fmt.Sprintf(`{"schema":1,"cluster":%q,"node":%q,"instance_id":"i-1","boot_id":"b","incarnation":1,"sequence":%d}`, cluster, node, sequence)
}

// secure serves h with exporter-toolkit's TLS, as the daemons do, and gives its
// URL and a client for each name; the empty name has no certificate.
func secure(t *testing.T, h http.Handler, names ...string) (string, map[string]*http.Client) {
	t.Helper()
	authority, err := pki.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server, err := authority.Server("remediator")
	if err != nil {
		t.Fatal(err)
	}
	webConfig, err := authority.WebConfig("remediator", server)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	ended := make(chan error, 1)
	go func() {
		ended <- web.Serve(listener, s, &web.FlagConfig{WebConfigFile: &webConfig}, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		s.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	clients := make(map[string]*http.Client)
	for _, name := range names {
		var pair pki.Pair
		if name != "" {
			if pair, err = authority.Client(name); err != nil {
				t.Fatal(err)
			}
		}
		c, err := authority.ClientTLS(pair)
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{TLSClientConfig: c}
		t.Cleanup(transport.CloseIdleConnections)
		clients[name] = &http.Client{Transport: transport}
	}
	return "https://" + listener.Addr().String(), clients
}

func do(t *testing.T, c *http.Client, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(answer)
}

// TestAccess makes every request of the table in docs/access.md.
func TestAccess(t *testing.T) {
	content, err := os.ReadFile("../../docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	for line := range strings.Lines(string(content)) {
		if cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|"); len(cells) > 1 {
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
		}
	}
	header := []string{"request", "no certificate", "node a", "node b", "collector", "alertmanager", "operator"}
	if len(rows) < 2 || !cmp.Equal(rows[0], header) {
		t.Fatalf("docs/access.md has no table with the header %v", header)
	}
	callers := map[string]string{
		"no certificate": "", "node a": nodeA, "node b": nodeB, "collector": "collector", "alertmanager": "alertmanager", "operator": "operator",
	}
	var r remediator
	url, clients := secure(t, r.handler(t, roles), "", nodeA, nodeB, "collector", "alertmanager", "operator")

	missing := map[string]bool{}
	for _, route := range (server{Options{Gatherer: prometheus.NewRegistry()}}).routes(http.NotFoundHandler()) {
		missing[strings.Replace(route.pattern, "{$}", "", 1)] = true
	}
	for _, row := range rows[2:] { // after the header and the line under it
		request, _, _ := strings.Cut(strings.TrimPrefix(row[0], "`"), "`")
		if !missing[request] {
			t.Errorf("docs/access.md lists %q, which is not a route or is there twice", request)
		}
		delete(missing, request)
		method, path, _ := strings.Cut(request, " ")
		for i, caller := range header[1:] {
			body := ""
			if path == "/v1/reports" {
				body = reportOf(nodeA)
			}
			status, answer := do(t, clients[callers[caller]], method, url+strings.Replace(path, "{id}", "inc-1", 1), body)
			got := fmt.Sprint(status)
			if status < 300 {
				got = "yes"
			}
			if want := row[i+1]; got != want {
				t.Errorf("%s by %s = %s %s, want %s", request, caller, got, answer, want)
			}
		}
	}
	for route := range missing {
		t.Errorf("docs/access.md does not list %q", route)
	}
	if r.woken != 1 {
		t.Errorf("woken %d times, want once", r.woken)
	}
	want := []string{"set", "clear by operator", "approve inc-1 by operator"}
	if diff := cmp.Diff(want, r.controller.did); diff != "" {
		t.Errorf("what people did (-want +got):\n%s", diff)
	}
}

func TestReportForAnotherNodeChangesNothing(t *testing.T) {
	var r remediator
	url, clients := secure(t, r.handler(t, roles), nodeA, nodeB)
	if status, _ := do(t, clients[nodeB], http.MethodPost, url+"/v1/reports", reportOf(nodeA)); status != http.StatusForbidden {
		t.Errorf("report of node a by node b = %d, want 403", status)
	}
	if got := len(r.store.Nodes()); got != 0 {
		t.Errorf("%d nodes held, want none", got)
	}
	if status, _ := do(t, clients[nodeA], http.MethodPost, url+"/v1/reports", reportOf(nodeA)); status != http.StatusNoContent {
		t.Errorf("report of node a by node a = %d, want 204", status)
	}
}

func TestCertificateOfAnotherAuthority(t *testing.T) {
	var r remediator
	url, _ := secure(t, r.handler(t, roles))
	_, strangers := secure(t, http.NotFoundHandler(), "operator")
	transport := strangers["operator"].Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.InsecureSkipVerify = true // the stranger does not mind who the server is
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Get(url + "/v1/kill-switch")
	if err == nil {
		res.Body.Close()
		t.Errorf("GET with an operator's certificate of another authority = %s, want a failed handshake", res.Status)
	}
}

// insecure gives a handler before which everyone may do everything.
func insecure(t *testing.T, r *remediator) http.Handler {
	return r.handler(t, httpserve.Access{Insecure: true})
}

func call(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

func TestReports(t *testing.T) {
	var r remediator
	h := insecure(t, &r)
	report := func(node string, incarnation int64) string {
		return fmt.Sprintf(`{"schema":1,"cluster":%q,"node":%q,"boot_id":"b","incarnation":%d,"sequence":7}`, cluster, node, incarnation)
	}
	for _, test := range []struct {
		name, body string
		want       int
	}{
		{"first", report(nodeA, 5), http.StatusNoContent},
		{"the same", report(nodeA, 5), http.StatusConflict},
		{"older", report(nodeA, 4), http.StatusConflict},
		{"newer, with a field to come", strings.Replace(report(nodeA, 6), "{", `{"to_come":[1],`, 1), http.StatusNoContent},
		{"nothing", "", http.StatusBadRequest},
		{"half", report(nodeA, 7)[:40], http.StatusBadRequest},
		{"no boot id", strings.Replace(report(nodeA, 7), `"b"`, `""`, 1), http.StatusBadRequest},
		{"another cluster", strings.Replace(report(nodeA, 7), `"hp"`, `"other"`, 1), http.StatusBadRequest},
		{"too large", report(nodeA, 7) + strings.Repeat(" ", fault.MaxReportBytes), http.StatusRequestEntityTooLarge},
		{"second node", report(nodeB, 1), http.StatusNoContent},
		{"one node too many", report("ip-10-1-0-3", 1), http.StatusServiceUnavailable},
	} {
		got := call(h, http.MethodPost, "/v1/reports", test.body)
		if got.Code != test.want {
			t.Errorf("%s: POST /v1/reports = %d %s, want %d", test.name, got.Code, got.Body, test.want)
		}
		if got.Code == http.StatusNoContent {
			continue
		}
		var answer fault.StaleReport
		if err := json.Unmarshal(got.Body.Bytes(), &answer); err != nil || answer.Error == "" {
			t.Errorf("%s: answer %q is no JSON with an error", test.name, got.Body)
		}
		if want := (fault.Position{BootID: "b", Incarnation: 5, Sequence: 7}); got.Code == http.StatusConflict && answer.Held != want {
			t.Errorf("%s: held = %v, want %v", test.name, answer.Held, want)
		}
	}
}

func TestKillSwitch(t *testing.T) {
	var r remediator
	h := insecure(t, &r)
	for _, test := range []struct {
		body   string
		status int
		reason string
	}{
		{``, http.StatusOK, ""},
		{`{"reason":"fabric maintenance"}`, http.StatusOK, "fabric maintenance"},
		{`{"reson":"misspelt"}`, http.StatusBadRequest, ""},
		{`fabric`, http.StatusBadRequest, ""},
		{`{"reason":"` + strings.Repeat("x", maxControlBody) + `"}`, http.StatusBadRequest, ""},
	} {
		r.controller.kill = incident.KillSwitch{}
		got := call(h, http.MethodPut, "/v1/kill-switch", test.body)
		if got.Code != test.status || r.controller.kill.Reason != test.reason || r.controller.kill.On != (test.status == http.StatusOK) {
			t.Errorf("PUT /v1/kill-switch %.40q = %d, switch %+v, want %d and reason %q", test.body, got.Code, r.controller.kill, test.status, test.reason)
		}
	}
	r.controller.err = errors.New("disk full")
	if got := call(h, http.MethodPut, "/v1/kill-switch", ""); got.Code != http.StatusInternalServerError || !strings.Contains(got.Body.String(), "disk full") {
		t.Errorf("PUT /v1/kill-switch without a journal = %d %s, want 500 with the reason", got.Code, got.Body)
	}
}

func TestApprove(t *testing.T) {
	var r remediator
	h := insecure(t, &r)
	for _, test := range []struct {
		id   string
		err  error
		want int
	}{
		{"inc-1", nil, http.StatusOK},
		{"inc-2", nil, http.StatusNotFound},
		{"inc-1", fmt.Errorf("inc-1: %w", incident.ErrNotWaiting), http.StatusConflict},
		{"inc-1", errors.New("disk full"), http.StatusInternalServerError},
	} {
		r.controller.err = test.err
		if got := call(h, http.MethodPost, "/v1/incidents/"+test.id+"/approve", ""); got.Code != test.want {
			t.Errorf("approve %s with %v = %d, want %d", test.id, test.err, got.Code, test.want)
		}
	}
}

// TestWakeIgnoresWhatItIsTold sends bodies that a decoder would choke on.
func TestWakeIgnoresWhatItIsTold(t *testing.T) {
	var r remediator
	h := insecure(t, &r)
	bodies := []string{"", `{"alerts":[{"labels":{"node":"n1"`, strings.Repeat("x", 2*maxWakeBody)}
	for _, body := range bodies {
		if got := call(h, http.MethodPost, "/v1/wake", body); got.Code != http.StatusAccepted {
			t.Errorf("POST /v1/wake with %d bytes = %d, want 202", len(body), got.Code)
		}
	}
	if r.woken != len(bodies) {
		t.Errorf("woken %d times, want %d", r.woken, len(bodies))
	}
	if got := len(r.store.Nodes()); got != 0 {
		t.Errorf("%d nodes held after webhooks, want none", got)
	}
}

func TestOtherOriginsMayNotBorrowACertificate(t *testing.T) {
	var r remediator
	h := insecure(t, &r)
	for _, test := range []struct {
		method, site string
		want         int
	}{
		{http.MethodPut, "cross-site", http.StatusForbidden},
		{http.MethodPut, "same-origin", http.StatusOK},
		{http.MethodGet, "cross-site", http.StatusOK},
	} {
		if got := call(h, test.method, "/v1/kill-switch", "", "Sec-Fetch-Site", test.site); got.Code != test.want {
			t.Errorf("%s /v1/kill-switch, Sec-Fetch-Site %s = %d, want %d", test.method, test.site, got.Code, test.want)
		}
	}
}

func TestReadiness(t *testing.T) {
	r := remediator{notReady: errors.New("the journal is not open")}
	h := insecure(t, &r)
	if got := call(h, http.MethodGet, "/-/ready", ""); got.Code != http.StatusServiceUnavailable || !strings.Contains(got.Body.String(), "journal") {
		t.Errorf("GET /-/ready = %d %s, want 503 with the reason", got.Code, got.Body)
	}
	if got := call(h, http.MethodGet, "/-/healthy", ""); got.Code != http.StatusOK {
		t.Errorf("GET /-/healthy = %d, want 200 all the same", got.Code)
	}
	if got := call(h, http.MethodGet, "/v1/incidents", "").Body.String(); got != "{\"incidents\":[]}\n" {
		t.Errorf("GET /v1/incidents = %q, want an empty list", got)
	}
	if got := call(h, http.MethodGet, "/v1/incidents/inc-2", ""); got.Code != http.StatusNotFound {
		t.Errorf("GET /v1/incidents/inc-2 = %d, want 404", got.Code)
	}
}
