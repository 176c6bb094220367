# syntax=docker/dockerfile:1
# One image for all roles: `authz`, `store`, `bridge` and the commands. nats-server is an image of its own.
#
#   docker build -t natterjack .

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The tool chain of the image is used as it is: rust-toolchain.toml would add clippy and rustfmt, which nobody needs here.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    rm rust-toolchain.toml \
 && cargo build --release --locked --bin natterjack \
 && install -D -m 0755 target/release/natterjack /out/natterjack

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="natterjack" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
# Volumes take the owner of the folder that they are first mounted on.
RUN groupadd --system --gid 10001 natterjack \
 && useradd --system --uid 10001 --gid natterjack --home-dir /data --no-create-home natterjack \
 && install -d -m 0700 -o natterjack -g natterjack /data /keys \
 && install -d -m 0755 -o natterjack -g natterjack /server /secret
COPY --from=build /out/natterjack /usr/local/bin/natterjack
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/natterjack/
USER natterjack
WORKDIR /data
ENV NATTERJACK_DATA=/data \
    NATTERJACK_KEYS__DIR=/keys
# No HEALTHCHECK here: only `bridge` listens on a port. docker-compose.yml has one for it.
STOPSIGNAL SIGTERM
ENTRYPOINT ["natterjack"]
CMD ["--help"]
