"""``wsplugin certify``: plays a faulty plugin to a host, and tells what promises it keeps."""
