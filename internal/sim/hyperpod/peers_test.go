package hyperpod

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// awsCLI runs the real aws command line against the server.
type awsCLI struct{ path, endpoint, secret string }

func (a awsCLI) run(t *testing.T, args ...string) (map[string]any, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, a.path, append([]string{"--endpoint-url", a.endpoint, "--output", "json", "sagemaker"}, args...)...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") }),
		"AWS_ACCESS_KEY_ID="+testKey, "AWS_SECRET_ACCESS_KEY="+a.secret, "AWS_REGION="+testRegion, "AWS_DEFAULT_REGION="+testRegion,
		"AWS_PAGER=", "AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_MAX_ATTEMPTS=1")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if strings.Contains(stderr.String(), "Invalid choice") {
			t.Skipf("NOT RUN: the aws command line on this machine does not know %s", args[0])
		}
		return nil, stderr.String()
	}
	var answer map[string]any
	if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil {
		t.Fatalf("aws sagemaker %v printed %q: %v", args, stdout.String(), err)
	}
	return answer, ""
}

// launched reads a time as version 1 of the command line prints it (a number)
// or version 2 (ISO 8601).
func launched(v any) time.Time {
	if f, ok := v.(float64); ok {
		return time.Unix(int64(f), 0)
	}
	at, _ := time.Parse(time.RFC3339, fmt.Sprint(v))
	return at
}

// TestAWSCommandLine drives the server with a client that is not ours.
func TestAWSCommandLine(t *testing.T) {
	path, err := exec.LookPath("aws")
	if err != nil {
		t.Skip("NOT RUN: the aws command line is not on this machine, so the server was not checked against it")
	}
	t.Parallel() // it starts a Python program eight times
	s := newServer(t, Options{Nodes: []Node{
		{IP: "10.1.0.1", InstanceID: "i-00000000000000001"}, {IP: "10.1.0.2", InstanceID: "i-00000000000000002"}, {IP: "10.1.0.3", InstanceID: "i-00000000000000003"},
	}, ReplaceTakes: time.Hour, RebootTakes: time.Hour, ViewLag: time.Hour})
	endpoint, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cli := awsCLI{path: path, endpoint: endpoint, secret: testSecret}

	cluster, problem := cli.run(t, "describe-cluster", "--cluster-name", "c1")
	if cluster["NodeRecovery"] != "None" || cluster["ClusterStatus"] != "InService" || cluster["ClusterArn"] != s.arn {
		t.Errorf("describe-cluster = %v %s, want cluster %s in service", cluster, problem, s.arn)
	}

	// The command line follows NextToken by itself.
	nodes, problem := cli.run(t, "list-cluster-nodes", "--cluster-name", "c1", "--page-size", "2")
	var ids []string
	summaries, _ := nodes["ClusterNodeSummaries"].([]any)
	for _, n := range summaries {
		summary := n.(map[string]any)
		ids = append(ids, fmt.Sprintf("%v %v", summary["InstanceId"], summary["PrivateDnsHostname"]))
		if at := launched(summary["LaunchTime"]); time.Since(at).Abs() > time.Hour {
			t.Errorf("LaunchTime = %v, want about now", summary["LaunchTime"])
		}
	}
	want := []string{
		"i-00000000000000001 ip-10-1-0-1.us-west-2.compute.internal",
		"i-00000000000000002 ip-10-1-0-2.us-west-2.compute.internal",
		"i-00000000000000003 ip-10-1-0-3.us-west-2.compute.internal",
	}
	if diff := gocmp.Diff(want, ids); diff != "" {
		t.Errorf("list-cluster-nodes differs (-want +got):\n%s%s", diff, problem)
	}

	node, problem := cli.run(t, "describe-cluster-node", "--cluster-name", s.arn, "--node-id", "i-00000000000000002")
	if details, _ := node["NodeDetails"].(map[string]any); details["PrivatePrimaryIp"] != "10.1.0.2" {
		t.Errorf("describe-cluster-node = %v %s, want address 10.1.0.2", node, problem)
	}
	if _, problem := cli.run(t, "describe-cluster-node", "--cluster-name", "c1", "--node-id", "i-0000000000000000f"); !strings.Contains(problem, "(ResourceNotFound)") {
		t.Errorf("describe-cluster-node of an unknown node said %q, want ResourceNotFound", problem)
	}

	replaced, problem := cli.run(t, "batch-replace-cluster-nodes", "--cluster-name", "c1", "--node-ids", "i-00000000000000001", "i-0000000000000000f")
	if diff := gocmp.Diff(map[string]any{
		"Successful": []any{"i-00000000000000001"},
		"Failed": []any{map[string]any{
			"NodeId": "i-0000000000000000f", "ErrorCode": "InstanceIdNotFound", "Message": "The instance ID does not exist in the specified cluster.",
		}},
	}, replaced); diff != "" {
		t.Errorf("batch-replace-cluster-nodes differs (-want +got):\n%s%s", diff, problem)
	}
	rebooted, problem := cli.run(t, "batch-reboot-cluster-nodes", "--cluster-name", "c1", "--node-ids", "i-00000000000000003")
	if diff := gocmp.Diff(map[string]any{"Successful": []any{"i-00000000000000003"}}, rebooted); diff != "" {
		t.Errorf("batch-reboot-cluster-nodes differs (-want +got):\n%s%s", diff, problem)
	}

	cli.secret = "not-" + testSecret
	if _, problem := cli.run(t, "describe-cluster", "--cluster-name", "c1"); !strings.Contains(problem, "(InvalidSignatureException)") {
		t.Errorf("describe-cluster with a wrong secret said %q, want InvalidSignatureException", problem)
	}
	counts := make(map[string]int)
	for _, c := range s.Calls() {
		counts[c.Operation]++
	}
	if diff := gocmp.Diff(map[string]int{
		"DescribeCluster": 2, "ListClusterNodes": 2, "DescribeClusterNode": 2, "BatchReplaceClusterNodes": 1, "BatchRebootClusterNodes": 1,
	}, counts); diff != "" {
		t.Errorf("calls differ (-want +got):\n%s", diff)
	}
}

// serviceModel is AWS's own description of the API, as botocore carries it.
type serviceModel struct {
	Operations map[string]struct {
		Input, Output struct{ Shape string }
		Errors        []struct{ Shape string }
	}
	Shapes map[string]shape
}

type shape struct {
	Type     string
	Members  map[string]struct{ Shape string }
	Member   struct{ Shape string }
	Required []string
	Enum     []string
	Pattern  string
	Max, Min *float64
}

func loadServiceModel(t *testing.T) serviceModel {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("NOT RUN: no python3, so botocore's description of SageMaker could not be looked for")
	}
	out, err := exec.Command(python, "-c", "import botocore,os;print(os.path.dirname(botocore.__file__))").Output()
	if err != nil {
		t.Skip("NOT RUN: botocore is not on this machine, so the server was not checked against its description of SageMaker")
	}
	path := filepath.Join(strings.TrimSpace(string(out)), "data", "sagemaker", "2017-07-24", "service-2.json")
	content, err := os.ReadFile(path)
	if err != nil {
		file, err := os.Open(path + ".gz")
		if err != nil {
			t.Skipf("NOT RUN: botocore has no description of SageMaker: %v", err)
		}
		defer file.Close()
		plain, err := gzip.NewReader(file)
		if err != nil {
			t.Fatal(err)
		}
		if content, err = io.ReadAll(plain); err != nil {
			t.Fatal(err)
		}
	}
	var m serviceModel
	if err := json.Unmarshal(content, &m); err != nil {
		t.Fatal(err)
	}
	if _, ok := m.Operations["BatchReplaceClusterNodes"]; !ok {
		t.Skip("NOT RUN: botocore on this machine is too old for HyperPod's batch operations")
	}
	return m
}

// check gives what is wrong with a value of the named shape.
func (m serviceModel) check(at, name string, value any) (problems []string) {
	complain := func(format string, args ...any) {
		problems = append(problems, at+" ("+name+"): "+fmt.Sprintf(format, args...))
	}
	s, ok := m.Shapes[name]
	if !ok {
		complain("there is no such shape")
		return problems
	}
	switch s.Type {
	case "structure":
		members, ok := value.(map[string]any)
		if !ok {
			complain("%v is no structure", value)
			break
		}
		for _, required := range s.Required {
			if _, ok := members[required]; !ok {
				complain("%s is required", required)
			}
		}
		for _, member := range slices.Sorted(maps.Keys(members)) {
			target, ok := s.Members[member]
			if !ok {
				complain("has no member %s", member)
				continue
			}
			problems = append(problems, m.check(at+"."+member, target.Shape, members[member])...)
		}
	case "list":
		items, ok := value.([]any)
		if !ok {
			complain("%v is no list", value)
		}
		for i, item := range items {
			problems = append(problems, m.check(fmt.Sprintf("%s[%d]", at, i), s.Member.Shape, item)...)
		}
	case "string":
		text, ok := value.(string)
		if !ok {
			complain("%v is no string", value)
		}
		if s.Enum != nil && !slices.Contains(s.Enum, text) {
			complain("%q is not in the enumeration", text)
		}
		if pattern, err := regexp.Compile("^(?:" + s.Pattern + ")$"); err == nil && s.Pattern != "" && !pattern.MatchString(text) {
			complain("%q does not match %s", text, s.Pattern)
		}
		if s.Max != nil && len(text) > int(*s.Max) || s.Min != nil && len(text) < int(*s.Min) {
			complain("%q is too long or too short", text)
		}
	case "timestamp", "integer":
		if _, ok := value.(float64); !ok {
			complain("%v is no number", value)
		}
	case "boolean":
		if _, ok := value.(bool); !ok {
			complain("%v is no boolean", value)
		}
	default:
		complain("this test does not know the type %s", s.Type)
	}
	return problems
}

// TestServiceModel holds every answer of the server against AWS's description.
func TestServiceModel(t *testing.T) {
	m := loadServiceModel(t)
	synctest.Test(t, func(t *testing.T) {
		for _, continuous := range []bool{false, true} {
			s := newServer(t, Options{Continuous: continuous, ReplaceTakes: 4 * time.Minute, RebootTakes: 3 * time.Minute})
			ask := func(operation, body string) {
				w := httptest.NewRecorder()
				s.ServeHTTP(w, signing{}.request(t, operation, body, time.Now()))
				var value any
				if err := json.Unmarshal(w.Body.Bytes(), &value); err != nil {
					t.Fatal(err)
				}
				output := m.Operations[operation].Output.Shape
				if kind, _ := value.(map[string]any)["__type"].(string); kind == "ResourceNotFound" {
					if !slices.ContainsFunc(m.Operations[operation].Errors, func(e struct{ Shape string }) bool { return e.Shape == kind }) {
						t.Errorf("%s does not have the error %s", operation, kind)
					}
					return
				}
				for _, problem := range m.check(operation, output, value) {
					t.Error(problem)
				}
			}
			replaced, dead := s.Instances()[0], s.Instances()[1]
			if err := s.KillInstance(dead.ID); err != nil {
				t.Fatal(err)
			}
			ask("BatchReplaceClusterNodes", batchOf(replaced.ID, "i-0000000000000000f"))
			ask("BatchRebootClusterNodes", batchOf(dead.ID, "i-0000000000000000f"))
			if continuous {
				logical := fmt.Sprintf(`{"ClusterName":"c1","NodeLogicalIds":[%q,"node-of-nobody"]}`, dead.LogicalID)
				ask("BatchReplaceClusterNodes", logical)
				ask("BatchRebootClusterNodes", logical)
			}
			for range 6 { // shutting down, pending, running, failed
				ask("DescribeCluster", `{"ClusterName":"c1"}`)
				ask("ListClusterNodes", `{"ClusterName":"c1","MaxResults":1,"IncludeNodeLogicalIds":true}`)
				for _, i := range s.Instances() {
					ask("DescribeClusterNode", fmt.Sprintf(`{"ClusterName":"c1","NodeId":%q}`, i.ID))
				}
				ask("DescribeClusterNode", `{"ClusterName":"c1","NodeId":"i-0000000000000000f"}`)
				time.Sleep(time.Minute)
			}
		}
		if problems := m.check("near miss", "ClusterInstanceStatusDetails", map[string]any{"Status": "Rebooting", "Colour": "red"}); len(problems) != 2 {
			t.Errorf("check() of a wrong value and an unknown member = %q, want 2 problems", problems)
		}
	})
}
