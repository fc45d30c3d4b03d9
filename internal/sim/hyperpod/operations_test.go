package hyperpod

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

func TestBadRequests(t *testing.T) {
	s := newServer(t, Options{})
	twentySix := make([]string, 26)
	for i := range twentySix {
		twentySix[i] = fmt.Sprintf("i-%017x", i)
	}
	for _, test := range []struct{ name, operation, body, wantType string }{
		{"no such operation", "CreateCluster", `{"ClusterName":"c1"}`, "UnknownOperationException"},
		{"no operation", "", `{"ClusterName":"c1"}`, "UnknownOperationException"},
		{"no JSON", "DescribeCluster", `ClusterName=c1`, "SerializationException"},
		{"half a document", "DescribeCluster", `{"ClusterName":"c1"`, "SerializationException"},
		{"empty", "DescribeCluster", ``, "SerializationException"},
		{"wrong type", "DescribeCluster", `{"ClusterName":1}`, "SerializationException"},
		{"no cluster", "DescribeCluster", `{}`, "ValidationException"},
		{"no cluster's name", "DescribeCluster", `{"ClusterName":"c 1"}`, "ValidationException"},
		{"unknown cluster", "DescribeCluster", `{"ClusterName":"c2"}`, "ResourceNotFound"},
		{"no node", "DescribeClusterNode", `{"ClusterName":"c1"}`, "ValidationException"},
		{"two kinds of node id", "DescribeClusterNode", `{"ClusterName":"c1","NodeId":"i-00000000000000001","NodeLogicalId":"n1"}`, "ValidationException"},
		{"malformed node id", "DescribeClusterNode", `{"ClusterName":"c1","NodeId":"i-1"}`, "ValidationException"},
		{"unknown node", "DescribeClusterNode", `{"ClusterName":"c1","NodeId":"i-0000000000000000f"}`, "ResourceNotFound"},
		{"page of 0", "ListClusterNodes", `{"ClusterName":"c1","MaxResults":0}`, "ValidationException"},
		{"page of 101", "ListClusterNodes", `{"ClusterName":"c1","MaxResults":101}`, "ValidationException"},
		{"page of 100", "ListClusterNodes", `{"ClusterName":"c1","MaxResults":100}`, ""},
		{"sorted by colour", "ListClusterNodes", `{"ClusterName":"c1","SortBy":"COLOUR"}`, "ValidationException"},
		{"sorted sideways", "ListClusterNodes", `{"ClusterName":"c1","SortOrder":"Sideways"}`, "ValidationException"},
		{"foreign token", "ListClusterNodes", `{"ClusterName":"c1","NextToken":"AAAA"}`, "ValidationException"},
		{"a time beyond time", "ListClusterNodes", `{"ClusterName":"c1","CreationTimeAfter":1e300}`, "SerializationException"},
		{"batch of none", "BatchReplaceClusterNodes", `{"ClusterName":"c1"}`, "ValidationException"},
		{"batch of an empty id", "BatchReplaceClusterNodes", batchOf(""), "ValidationException"},
		{"batch of 26", "BatchReplaceClusterNodes", batchOf(twentySix...), "ValidationException"},
		{"batch of 25", "BatchReplaceClusterNodes", batchOf(twentySix[:25]...), ""},
		{"logical ids without continuous provisioning", "BatchRebootClusterNodes", `{"ClusterName":"c1","NodeLogicalIds":["node-1"]}`, "ValidationException"},
		{"unknown members", "DescribeCluster", `{"ClusterName":"c1","Colour":"red"}`, ""},
		{"cluster by ARN", "DescribeCluster", `{"ClusterName":"` + s.arn + `"}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, a := do(t, s, test.operation, test.body)
			if a.Type != test.wantType || (status == http.StatusOK) != (test.wantType == "") {
				t.Errorf("%s(%s) = HTTP %d %s, want %q", test.operation, test.body, status, a.Type, test.wantType)
			}
		})
	}
}

func TestOnlyRootIsServed(t *testing.T) {
	s := newServer(t, Options{})
	r := httptest.NewRequest(http.MethodPost, "/metadata", strings.NewReader("{}"))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != http.StatusBadRequest {
		t.Errorf("POST /metadata = %d, want 400", w.Code)
	}
}

func TestBatchReportsEachNode(t *testing.T) {
	s := newServer(t, Options{ReplaceTakes: time.Hour})
	_, a := do(t, s, "BatchReplaceClusterNodes", batchOf("i-00000000000000001", "i-0000000000000000f", "i-00000000000000002", "i-00000000000000001"))
	if diff := gocmp.Diff([]string{"i-00000000000000001", "i-00000000000000002"}, a.Successful); diff != "" {
		t.Errorf("Successful differs (-want +got):\n%s", diff)
	}
	var codes []string
	for _, f := range a.Failed {
		codes = append(codes, f.ErrorCode)
	}
	if diff := gocmp.Diff([]string{"InstanceIdNotFound", "InstanceIdInUse"}, codes); diff != "" {
		t.Errorf("codes in Failed differ (-want +got):\n%s", diff)
	}
}

func TestLogicalIDs(t *testing.T) {
	s := newServer(t, Options{Continuous: true, ReplaceTakes: 0})
	before := s.Instances()[0]
	_, a := do(t, s, "BatchReplaceClusterNodes", fmt.Sprintf(`{"ClusterName":"c1","NodeLogicalIds":[%q,"node-of-nobody"]}`, before.LogicalID))
	if !slices.Equal(a.SuccessfulNodeLogicalIDs, []string{before.LogicalID}) || len(a.FailedNodeLogicalIDs) != 1 {
		t.Errorf("BatchReplaceClusterNodes = %+v, want one success and one failure", a)
	}
	after := s.Instances()[0]
	if after.LogicalID != before.LogicalID || after.ID == before.ID {
		t.Errorf("%+v became %+v, want the same logical id and another instance id", before, after)
	}
	if _, a := do(t, s, "DescribeClusterNode", fmt.Sprintf(`{"ClusterName":"c1","NodeLogicalId":%q}`, before.LogicalID)); a.NodeDetails.InstanceID != after.ID {
		t.Errorf("DescribeClusterNode by logical id = %q, want %q", a.NodeDetails.InstanceID, after.ID)
	}
	for include, want := range map[bool]string{false: "", true: after.LogicalID} {
		_, a := do(t, s, "ListClusterNodes", fmt.Sprintf(`{"ClusterName":"c1","SortOrder":"Descending","MaxResults":1,"IncludeNodeLogicalIds":%t}`, include))
		if got := a.ClusterNodeSummaries[0].NodeLogicalID; got != want {
			t.Errorf("with IncludeNodeLogicalIds %t a summary's logical id is %q, want %q", include, got, want)
		}
	}
}

// list follows the pages of ListClusterNodes and gives the instance ids.
func list(t *testing.T, s *Server, members string, between func()) (ids []string, pages int) {
	t.Helper()
	token := ""
	for {
		_, a := do(t, s, "ListClusterNodes", fmt.Sprintf(`{"ClusterName":"c1","NextToken":%q%s}`, token, members))
		if a.Type != "" {
			t.Fatalf("ListClusterNodes = %s: %s", a.Type, a.Message)
		}
		if pages++; pages > 100 {
			t.Fatal("ListClusterNodes never ends")
		}
		for _, n := range a.ClusterNodeSummaries {
			ids = append(ids, n.InstanceID)
		}
		if token = a.NextToken; token == "" {
			return ids, pages
		}
		if between != nil {
			between()
			between = nil
		}
	}
}

func TestList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, Options{Nodes: []Node{
			{IP: "10.1.0.1", InstanceID: "i-00000000000000005", Group: "worker"},
			{IP: "10.1.0.2", InstanceID: "i-00000000000000003", Group: "login"},
			{IP: "10.1.0.3", InstanceID: "i-00000000000000001", Group: "worker"},
			{IP: "10.1.0.4", InstanceID: "i-00000000000000004", Group: "worker"},
			{IP: "10.1.0.5", InstanceID: "i-00000000000000002", Group: "worker"},
		}})
		// Two instances that were launched later than the others.
		time.Sleep(time.Hour)
		for _, i := range []int{3, 4} {
			s.slots[i].timeline[0].instance.Launched = time.Now()
		}
		now := time.Now().Unix()
		for _, test := range []struct {
			members   string
			want      string // last digits of the ids
			wantPages int
		}{
			{"", "1 3 5 2 4", 1},
			{`,"SortOrder":"Descending"`, "4 2 5 3 1", 1},
			{`,"SortBy":"NAME"`, "3 1 2 4 5", 1},
			{`,"MaxResults":2`, "1 3 5 2 4", 3},
			{`,"MaxResults":5`, "1 3 5 2 4", 1},
			{`,"MaxResults":1,"SortBy":"NAME","SortOrder":"Descending"`, "5 4 2 1 3", 5},
			{`,"InstanceGroupNameContains":"work","MaxResults":3`, "1 5 2 4", 2},
			{fmt.Sprintf(`,"CreationTimeAfter":%d`, now-60), "2 4", 1},
			{fmt.Sprintf(`,"CreationTimeBefore":%d.500`, now-60), "1 3 5", 1},
		} {
			ids, pages := list(t, s, test.members, nil)
			var digits []string
			for _, id := range ids {
				digits = append(digits, id[len(id)-1:])
			}
			if got := strings.Join(digits, " "); got != test.want || pages != test.wantPages {
				t.Errorf("ListClusterNodes(%s) = %s in %d pages, want %s in %d", test.members, got, pages, test.want, test.wantPages)
			}
		}
	})
}

// TestListWhileNodesChange holds that a replacement between two pages hides no
// other node.
func TestListWhileNodesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var nodes []Node
		for i := range 9 {
			nodes = append(nodes, Node{IP: fmt.Sprintf("10.1.0.%d", i+1), InstanceID: fmt.Sprintf("i-%017x", i)})
		}
		s := newServer(t, Options{Nodes: nodes})
		ids, _ := list(t, s, `,"MaxResults":3`, func() {
			time.Sleep(time.Second)
			do(t, s, "BatchReplaceClusterNodes", batchOf("i-00000000000000000", "i-00000000000000004"))
		})
		for i := range 9 {
			if id := fmt.Sprintf("i-%017x", i); i != 4 && !slices.Contains(ids, id) {
				t.Errorf("%s is missing from %v", id, ids)
			}
		}
	})
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"ClusterName":"c1","NodeIds":["i-00000000000000001"],"NodeLogicalIds":["node-1"]}`))
	f.Add([]byte(`{"ClusterName":"c1","CreationTimeAfter":1700000000.5,"MaxResults":100,"SortBy":"NAME","SortOrder":"Ascending","NextToken":"e30="}`))
	f.Add([]byte(`{"ClusterName":"arn:aws:sagemaker:us-west-2:111122223333:cluster/abcdefghijkl","NodeId":"i-0123456789abcdef0"}`))
	f.Add([]byte(`{"CreationTimeBefore":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeRequest(body)
		if err != nil {
			return
		}
		for _, id := range r.NodeIDs {
			if !nodeIDPattern.MatchString(id) {
				t.Errorf("decodeRequest(%q) lets the instance id %q through", body, id)
			}
		}
		if r.MaxResults != nil && (*r.MaxResults < 1 || *r.MaxResults > maxPage) {
			t.Errorf("decodeRequest(%q) lets a page of %d through", body, *r.MaxResults)
		}
		s := newServer(t, Options{})
		for name, operation := range operations {
			if _, _, err := operation(s, r); err != nil && !strings.Contains(err.Error(), ":") {
				t.Errorf("%s(%q) = %v", name, body, err)
			}
		}
	})
}
