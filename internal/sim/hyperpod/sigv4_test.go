package hyperpod

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestPublishedVectors takes requests and signatures from AWS's Signature
// Version 4 test suite.
func TestPublishedVectors(t *testing.T) {
	v := verifier{accessKey: "AKIDEXAMPLE", secretKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", region: "us-east-1", service: "service"}
	now := time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)
	for _, test := range []struct {
		name, method  string
		header        http.Header
		body          string
		signedHeaders string
		signature     string
	}{
		{
			name: "get-vanilla", method: "GET", signedHeaders: "host;x-amz-date",
			signature: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
		},
		{
			name: "post-vanilla", method: "POST", signedHeaders: "host;x-amz-date",
			signature: "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
		},
		{
			name: "post-header-key-sort", method: "POST", signedHeaders: "host;my-header1;x-amz-date",
			header:    http.Header{"My-Header1": {"value1"}},
			signature: "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
		},
		{
			name: "post-header-value-case", method: "POST", signedHeaders: "host;my-header1;x-amz-date",
			header:    http.Header{"My-Header1": {"VALUE1"}},
			signature: "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
		},
		{
			name: "get-header-value-trim", method: "GET", signedHeaders: "host;my-header1;my-header2;x-amz-date",
			header:    http.Header{"My-Header1": {" value1"}, "My-Header2": {` "a   b   c"`}},
			signature: "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
		},
		{
			name: "get-header-key-duplicate", method: "GET", signedHeaders: "host;my-header1;x-amz-date",
			header:    http.Header{"My-Header1": {"value2", "value2", "value1"}},
			signature: "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
		},
		{
			name: "post-x-www-form-urlencoded", method: "POST", signedHeaders: "content-type;host;x-amz-date",
			header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, body: "Param1=value1",
			signature: "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest(test.method, "/", strings.NewReader(test.body))
			r.Host = "example.amazonaws.com"
			maps.Copy(r.Header, test.header)
			r.Header.Set("X-Amz-Date", "20150830T123600Z")
			r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders="+
				test.signedHeaders+", Signature="+test.signature)
			if err := v.verify(r, []byte(test.body), now); err != nil {
				t.Errorf("verify(%s) = %v, want nil", test.name, err)
			}
			if err := v.verify(r, []byte(test.body+"x"), now); err == nil {
				t.Error("verify() with one byte more in the body = nil, want an error")
			}
		})
	}
}

// TestVerify changes one thing at a time about a request that the AWS SDK's own
// signer has signed.
func TestVerify(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	v := verifier{accessKey: testKey, secretKey: testSecret, region: testRegion, service: "sagemaker"}
	for _, test := range []struct {
		name    string
		sign    signing
		body    string              // sent, if not the one signed
		change  func(*http.Request) // after signing
		at      time.Time
		wantErr string // type of the error, none if empty
	}{
		{name: "as it should be"},
		{name: "4:59 old", at: now.Add(4*time.Minute + 59*time.Second)},
		{name: "5:01 old", at: now.Add(5*time.Minute + time.Second), wantErr: "InvalidSignatureException"},
		{name: "4:59 ahead", at: now.Add(-4*time.Minute - 59*time.Second)},
		{name: "5:01 ahead", at: now.Add(-5*time.Minute - time.Second), wantErr: "InvalidSignatureException"},
		{name: "wrong key", sign: signing{key: "AKIDOTHER"}, wantErr: "UnrecognizedClientException"},
		{name: "wrong secret", sign: signing{secret: testSecret + "x"}, wantErr: "InvalidSignatureException"},
		{name: "wrong region", sign: signing{region: "us-west-1"}, wantErr: "InvalidSignatureException"},
		{name: "wrong service", sign: signing{service: "ec2"}, wantErr: "InvalidSignatureException"},
		{name: "session token of nobody", sign: signing{token: "T"}, wantErr: "UnrecognizedClientException"},
		{name: "tampered body", body: `{"ClusterName":"b"}`, wantErr: "InvalidSignatureException"},
		{name: "tampered target", change: func(r *http.Request) { r.Header.Set("X-Amz-Target", "SageMaker.BatchReplaceClusterNodes") }, wantErr: "InvalidSignatureException"},
		{name: "tampered date", change: func(r *http.Request) { r.Header.Set("X-Amz-Date", "20261124T120001Z") }, wantErr: "InvalidSignatureException"},
		{name: "date of another day", change: func(r *http.Request) { r.Header.Set("X-Amz-Date", "20261125T120000Z") }, wantErr: "InvalidSignatureException"},
		{name: "no date", change: func(r *http.Request) { r.Header.Del("X-Amz-Date") }, wantErr: "IncompleteSignatureException"},
		{name: "another host", change: func(r *http.Request) { r.Host = "elsewhere" }, wantErr: "InvalidSignatureException"},
		{name: "another method", change: func(r *http.Request) { r.Method = http.MethodPut }, wantErr: "InvalidSignatureException"},
		{name: "not signed", change: func(r *http.Request) { r.Header.Del("Authorization") }, wantErr: "MissingAuthenticationTokenException"},
		{name: "basic auth", change: func(r *http.Request) { r.SetBasicAuth("a", "b") }, wantErr: "IncompleteSignatureException"},
		{
			name:    "an unsigned x-amz header",
			change:  func(r *http.Request) { r.Header.Set("X-Amz-Extra", "1") },
			wantErr: "InvalidSignatureException",
		},
		{
			name:   "another unsigned header",
			change: func(r *http.Request) { r.Header.Set("X-Forwarded-For", "10.0.0.1") },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := test.sign.request(t, "DescribeCluster", `{"ClusterName":"a"}`, now)
			if test.change != nil {
				test.change(r)
			}
			body, at := `{"ClusterName":"a"}`, now
			if test.body != "" {
				body = test.body
			}
			if !test.at.IsZero() {
				at = test.at
			}
			err := v.verify(r, []byte(body), at)
			got := ""
			if problem, ok := errors.AsType[*apiError](err); ok {
				got = problem.Type
			}
			if got != test.wantErr || (err == nil) != (test.wantErr == "") {
				t.Errorf("verify() = %v, want %q", err, test.wantErr)
			}
		})
	}
}

// TestScopeOfAnotherDay holds that a key derived for one day signs nothing on
// another, however right the signature is.
func TestScopeOfAnotherDay(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	v := verifier{accessKey: testKey, secretKey: testSecret, region: testRegion, service: "sagemaker"}
	for date, wantErr := range map[string]bool{"20261124": false, "20261123": true} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
		r.Header.Set("X-Amz-Date", now.Format(signingTime))
		signed := []string{"host", "x-amz-date"}
		signature := v.sign(authorization{date: date}, now, canonicalRequest(r, signed, []byte("{}")))
		r.Header.Set("Authorization", fmt.Sprintf("%s Credential=%s/%s/%s/sagemaker/aws4_request, SignedHeaders=%s, Signature=%x",
			signingAlgorithm, testKey, date, testRegion, strings.Join(signed, ";"), signature))
		if err := v.verify(r, []byte("{}"), now); (err != nil) != wantErr {
			t.Errorf("verify() with a key of %s = %v, want error %t", date, err, wantErr)
		}
	}
}

func FuzzParseAuthorization(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=AKID/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + strings.Repeat("0a", 32))
	f.Add("AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request,SignedHeaders=host,Signature=00")
	f.Add("AWS4-HMAC-SHA256 Credential=, SignedHeaders=;;, Signature=zz")
	f.Add("Basic YTpi")
	f.Fuzz(func(t *testing.T, header string) {
		a, err := parseAuthorization(header)
		if err != nil {
			return
		}
		if len(a.signature) != 32 || slices.Contains([]string{a.accessKey, a.date, a.region, a.service}, "") ||
			!slices.IsSorted(a.signedHeaders) || slices.Contains(a.signedHeaders, "") {
			t.Errorf("parseAuthorization(%q) = %+v, which is not whole", header, a)
		}
	})
}
