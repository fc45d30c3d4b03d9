package scheduler

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ctl runs one operation and gives its answer as generic JSON.
func ctl(t *testing.T, endpoint, stdin string) (status int, answer map[string]any) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status = Ctl(strings.NewReader(stdin), &stdout, &stderr, endpoint)
	if status != 0 {
		if stdout.Len() > 0 || stderr.Len() == 0 {
			t.Errorf("Ctl(%s) = %d with answer %q and message %q, want only a message", stdin, status, &stdout, &stderr)
		}
		return status, nil
	}
	if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil {
		t.Fatalf("Ctl(%s) wrote %q: %v", stdin, &stdout, err)
	}
	return status, answer
}

func TestCtl(t *testing.T) {
	s, l := cluster(t)
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	nodeA := func(changes map[string]any) map[string]any {
		v := map[string]any{"node": "a", "responding": "yes", "isolated": false, "instance_id": "i-a", "boot_id": "boot-a", "job": "42", "idle": false}
		for name, value := range changes {
			v[name] = value
		}
		return v
	}
	tests := []struct {
		stdin string
		want  map[string]any
	}{
		{`{"schema":1,"operation":"view","node":"a"}`,
			map[string]any{"schema": 1.0, "outcome": "done", "node": nodeA(nil)}},
		{`{"schema":1,"operation":"isolate","key":"k/1","node":"a","reason":"Xid 79"}`,
			map[string]any{"schema": 1.0, "outcome": "done"}},
		{`{"schema":1,"operation":"view","key":"","node":"a","reason":"","job":"","checkpoint":"","exclude":[]}`,
			map[string]any{"schema": 1.0, "outcome": "done", "node": nodeA(map[string]any{"isolated": true, "isolation_key": "k/1", "reason": "Xid 79"})}},
		{`{"schema":1,"operation":"isolate","key":"k2","node":"a"}`,
			map[string]any{"schema": 1.0, "outcome": "refused", "message": "refused: isolated under the key k/1: Xid 79"}},
		{`{"schema":1,"operation":"view","node":"../jobs/42"}`,
			map[string]any{"schema": 1.0, "outcome": "not_found", "message": `node "../jobs/42": not found`}},
		{`{"schema":1,"operation":"stop","key":"k1","job":"42","reason":"node a"}`,
			map[string]any{"schema": 1.0, "outcome": "done"}},
		{`{"schema":1,"operation":"resume","key":"k2","job":"42","checkpoint":"/checkpoints/step-10","exclude":["a"]}`,
			map[string]any{"schema": 1.0, "outcome": "done"}},
		{`{"schema":1,"operation":"job","job":"42"}`,
			map[string]any{"schema": 1.0, "outcome": "done", "job": map[string]any{
				"job": "42", "state": "running", "nodes": []any{"s", "b", "c", "d", "e"}, "checkpoint_dir": "/checkpoints", "restarts": 1.0, "last_key": "k2"}}},
		{`{"schema":1,"operation":"job","job":"43"}`,
			map[string]any{"schema": 1.0, "outcome": "not_found", "message": `job "43": not found`}},
		{`{"schema":1,"operation":"unisolate","key":"k/1","node":"a"}`,
			map[string]any{"schema": 1.0, "outcome": "done"}},
	}
	for _, test := range tests {
		_, got := ctl(t, server.URL, test.stdin)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("Ctl(%s) (-want +got):\n%s", test.stdin, diff)
		}
	}
	l.expect(t, "kill", `start 1 on s,b,c,d,e from "/checkpoints/step-10"`)
	_, got := ctl(t, server.URL, `{"schema":1,"operation":"views"}`)
	if nodes, _ := got["nodes"].([]any); len(nodes) != 6 || nodes[5].(map[string]any)["node"] != "s" {
		t.Errorf("views = %v, want 6 nodes in order", got)
	}
}

// TestCtlUnknown has everything that is no answer.
func TestCtlUnknown(t *testing.T) {
	s, _ := cluster(t)
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	answering := func(status int, body string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	const view = `{"schema":1,"operation":"view","node":"a"}`
	tests := []struct{ name, endpoint, stdin string }{
		{"no request", server.URL, ``},
		{"not JSON", server.URL, `view a`},
		{"other schema", server.URL, `{"schema":2,"operation":"views"}`},
		{"unknown operation", server.URL, `{"schema":1,"operation":"reboot","node":"a"}`},
		{"no node", server.URL, `{"schema":1,"operation":"view"}`},
		{"no job", server.URL, `{"schema":1,"operation":"stop","key":"k"}`},
		{"no endpoint", "", view},
		{"nobody listens", "http://" + listener.Addr().String(), view},
		{"error", answering(http.StatusInternalServerError, `{"error":"kill job"}`), view},
		{"not the API", answering(http.StatusNotFound, "404 page not found"), view},
		{"not JSON back", answering(http.StatusOK, "<html>"), view},
	}
	for _, test := range tests {
		if status, answer := ctl(t, test.endpoint, test.stdin); status != 1 {
			t.Errorf("%s: Ctl = %d with %v, want 1", test.name, status, answer)
		}
	}
}
