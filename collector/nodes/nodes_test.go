package nodes

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestNodes(t *testing.T) {
	tests := []struct {
		name    string
		handler http.HandlerFunc
		want    string // in the error, empty for none
	}{
		{"an answer", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"cluster":"c","nodes":[{"node":"n1","state":"better","report_age_seconds":1}],"later_field":1}`)
		}, ""},
		{"another cluster", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"cluster":"d","nodes":[]}`) }, `about cluster "d", not "c"`},
		{"refused", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }, "HTTP status 403"},
		{"garbage", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `<html>`) }, "decode node health"},
		{"truncated", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"cluster":"c","nodes":[{`) }, "decode node health"},
		{"silence", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "deadline exceeded"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(test.handler)
			defer server.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if test.name == "silence" {
				ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
			}
			defer cancel()
			c := Client{URL: server.URL, Cluster: "c", HTTP: server.Client()}
			list, err := c.Nodes(ctx)
			switch {
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("Nodes() = %v, want an error with %q", err, test.want)
			case test.want == "" && (err != nil || len(list.Nodes) != 1 || list.Nodes[0].State != "unknown"):
				t.Errorf("Nodes() = %+v, %v, want one node whose odd state reads as unknown", list, err)
			}
		})
	}
}
