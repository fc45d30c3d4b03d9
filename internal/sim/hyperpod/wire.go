package hyperpod

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"time"
)

const contentType = "application/x-amz-json-1.1"

// apiError is an error in the shape of the JSON protocol.
type apiError struct {
	Status  int    `json:"-"`
	Type    string `json:"__type"`
	Message string `json:"message"`
}

func (e *apiError) Error() string { return e.Type + ": " + e.Message }

// refuse is an error of the caller's making, HTTP 400.
func refuse(kind, format string, args ...any) *apiError {
	return &apiError{Status: http.StatusBadRequest, Type: kind, Message: fmt.Sprintf(format, args...)}
}

// invalid words a violated constraint as the service does.
func invalid(member string, value any, constraint string) *apiError {
	return refuse("ValidationException", "1 validation error detected: Value '%.200v' at '%s' failed to satisfy constraint: Member must %s", value, member, constraint)
}

// request is the union of the members of every operation's input.
type request struct {
	ClusterName    string
	NodeID         string   `json:"NodeId"`
	NodeLogicalID  string   `json:"NodeLogicalId"`
	NodeIDs        []string `json:"NodeIds"`
	NodeLogicalIDs []string `json:"NodeLogicalIds"`

	CreationTimeAfter         *seconds
	CreationTimeBefore        *seconds
	IncludeNodeLogicalIDs     bool `json:"IncludeNodeLogicalIds"`
	InstanceGroupNameContains string
	MaxResults                *int
	NextToken                 string
	SortBy                    string
	SortOrder                 string
}

func (r *request) nodeIDs() []string {
	ids := slices.Concat(r.NodeIDs, r.NodeLogicalIDs)
	for _, id := range []string{r.NodeID, r.NodeLogicalID} {
		if id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

var (
	namePattern      = regexp.MustCompile(`^([a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}|arn:aws[a-z-]*:sagemaker:[a-z0-9-]*:[0-9]{12}:cluster/[a-z0-9]{12})$`)
	nodeIDPattern    = regexp.MustCompile(`^i-[a-f0-9]{8}([a-f0-9]{9})?$`)
	logicalIDPattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]$`)
)

// decodeRequest reads a body and checks each member that is present against
// the constraints that the service publishes. Unknown members are ignored.
func decodeRequest(body []byte) (*request, error) {
	var r request
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, refuse("SerializationException", "the request is not the JSON expected: %v", err)
	}
	if !namePattern.MatchString(r.ClusterName) {
		return nil, invalid("clusterName", r.ClusterName, "be a cluster name or ARN")
	}
	for _, id := range append(slices.Clone(r.NodeIDs), r.NodeID) {
		if id != "" && !nodeIDPattern.MatchString(id) || id == "" && slices.Contains(r.NodeIDs, "") {
			return nil, invalid("nodeIds", id, "satisfy regular expression pattern: i-[a-f0-9]{8}(?:[a-f0-9]{9})?")
		}
	}
	for _, id := range append(slices.Clone(r.NodeLogicalIDs), r.NodeLogicalID) {
		if (id != "" || slices.Contains(r.NodeLogicalIDs, "")) && (len(id) > 128 || !logicalIDPattern.MatchString(id)) {
			return nil, invalid("nodeLogicalIds", id, "satisfy regular expression pattern: [a-zA-Z0-9][a-zA-Z0-9\\-]*[a-zA-Z0-9]")
		}
	}
	if r.MaxResults != nil && (*r.MaxResults < 1 || *r.MaxResults > maxPage) {
		return nil, invalid("maxResults", *r.MaxResults, "be between 1 and 100")
	}
	if !slices.Contains([]string{"", "CREATION_TIME", "NAME"}, r.SortBy) {
		return nil, invalid("sortBy", r.SortBy, "satisfy enum value set: [CREATION_TIME, NAME]")
	}
	if !slices.Contains([]string{"", "Ascending", "Descending"}, r.SortOrder) {
		return nil, invalid("sortOrder", r.SortOrder, "satisfy enum value set: [Ascending, Descending]")
	}
	return &r, nil
}

// seconds is a timestamp of the JSON protocol: seconds since 1970 as a number.
type seconds time.Time

// MarshalJSON keeps milliseconds, as the service does.
func (s seconds) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%.3f", float64(time.Time(s).UnixMilli())/1000), nil
}

// UnmarshalJSON takes what a four-digit year can hold.
func (s *seconds) UnmarshalJSON(b []byte) error {
	var f float64
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("timestamp: %w", err)
	}
	if math.Abs(f) > 253402300799 {
		return fmt.Errorf("timestamp %g is out of range", f)
	}
	*s = seconds(time.UnixMilli(int64(f * 1000)))
	return nil
}

type statusDetails struct {
	Status  string
	Message string `json:",omitempty"`
}

type nodeSummary struct {
	InstanceGroupName  string
	InstanceID         string `json:"InstanceId"`
	NodeLogicalID      string `json:"NodeLogicalId,omitempty"`
	InstanceType       string
	LaunchTime         seconds
	InstanceStatus     statusDetails
	PrivateDNSHostname string `json:"PrivateDnsHostname,omitempty"`
}

type nodeDetails struct {
	InstanceGroupName  string
	InstanceID         string `json:"InstanceId"`
	NodeLogicalID      string `json:"NodeLogicalId,omitempty"`
	InstanceType       string
	LaunchTime         seconds
	InstanceStatus     statusDetails
	LifeCycleConfig    lifeCycle
	ThreadsPerCore     int
	PrivatePrimaryIP   string `json:"PrivatePrimaryIp"`
	PrivateDNSHostname string `json:"PrivateDnsHostname"`
	Placement          placement
}

type lifeCycle struct {
	SourceS3URI string `json:"SourceS3Uri"`
	OnCreate    string
}

type placement struct {
	AvailabilityZone   string
	AvailabilityZoneID string `json:"AvailabilityZoneId"`
}

type describeNodeAnswer struct{ NodeDetails nodeDetails }

type listNodesAnswer struct {
	NextToken            string `json:",omitempty"`
	ClusterNodeSummaries []nodeSummary
}

type instanceGroup struct {
	InstanceGroupName string
	InstanceType      string
	CurrentCount      int
	TargetCount       int
	LifeCycleConfig   lifeCycle
	ExecutionRole     string
	ThreadsPerCore    int
	Status            string
}

type describeClusterAnswer struct {
	ClusterArn           string
	ClusterName          string
	ClusterStatus        string
	CreationTime         seconds
	InstanceGroups       []instanceGroup
	Orchestrator         map[string]struct{}
	NodeRecovery         string
	NodeProvisioningMode string `json:",omitempty"`
}

type nodeFailure struct {
	NodeID    string `json:"NodeId"`
	ErrorCode string
	Message   string
}

type logicalFailure struct {
	NodeLogicalID string `json:"NodeLogicalId"`
	ErrorCode     string
	Message       string
}

type batchAnswer struct {
	Successful               []string         `json:",omitempty"`
	Failed                   []nodeFailure    `json:",omitempty"`
	SuccessfulNodeLogicalIDs []string         `json:"SuccessfulNodeLogicalIds,omitempty"`
	FailedNodeLogicalIDs     []logicalFailure `json:"FailedNodeLogicalIds,omitempty"`
}
