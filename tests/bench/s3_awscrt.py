"""awscrt's S3 client (the one below AWS's own fast paths) on a folder of files.

usage: s3_awscrt.py put|get URL BUCKET/PREFIX FOLDER PART-MIB GBPS CONNECTIONS NAME...

FOLDER -: what is got is dropped.  All files at once: the client itself decides how many requests
are under way (by GBPS, a target, or by CONNECTIONS unless that is 0).  Bodies are not signed: the
S3 client says UNSIGNED-PAYLOAD, also over HTTP, whatever its signing_config holds.  Keys are in
the environment."""
import os
import sys
import urllib.parse

from awscrt.auth import AwsCredentialsProvider
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import ClientTlsContext, TlsContextOptions
from awscrt.s3 import S3Client, S3RequestTlsMode, S3RequestType, create_default_s3_signing_config


def client_of(tls, part_bytes, gbps, connections):
    region = os.environ["AWS_REGION"]
    config = create_default_s3_signing_config(
        region=region, credential_provider=AwsCredentialsProvider.new_environment())
    options = None
    if tls:
        trust = TlsContextOptions()
        trust.override_default_trust_store_from_path(None, os.environ["AWS_CA_BUNDLE"])
        options = ClientTlsContext(trust).new_connection_options()
    return S3Client(region=region, signing_config=config, part_size=part_bytes,
                    multipart_upload_threshold=part_bytes, throughput_target_gbps=gbps,
                    tls_mode=S3RequestTlsMode.ENABLED if tls else S3RequestTlsMode.DISABLED,
                    tls_connection_options=options,
                    max_active_connections_override=connections or None)


def start(client, verb, host, path, file):
    headers = HttpHeaders([("Host", host)])
    if verb == "put":
        headers.add("Content-Length", str(os.path.getsize(file)))
        return client.make_request(type=S3RequestType.PUT_OBJECT, send_filepath=file,
                                   request=HttpRequest("PUT", path, headers))
    where = {"recv_filepath": file} if file else {"on_body": lambda chunk, offset, **_: None}
    return client.make_request(type=S3RequestType.GET_OBJECT,
                               request=HttpRequest("GET", path, headers), **where)


def main():
    verb, url, place, folder, part_mib, gbps, connections = sys.argv[1:8]
    url = urllib.parse.urlsplit(url)
    client = client_of(url.scheme == "https", int(part_mib) << 20, float(gbps), int(connections))
    requests = [start(client, verb, url.netloc, f"/{place}/{name}",
                      os.path.join(folder, name) if folder != "-" else None)
                for name in sys.argv[8:]]
    for request in requests:
        request.finished_future.result()


main()
