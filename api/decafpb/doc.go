// Package decafpb is the wire schema of decaf, generated from decaf.proto by
// "make generate". The generated code is committed; protoc is needed only to
// change it.
package decafpb
