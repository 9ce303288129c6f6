# The suite on a CPU: `docker build -t padding-study .`, then
#   docker run --rm -v "$PWD:/work" padding-study crop --json_path annotations.json --image_folder images/ --output_root crops
#   docker run --rm -v "$PWD/demo:/suite/demo" --entrypoint make padding-study demo
FROM python:3.12-slim
RUN apt-get update -q && apt-get install -y -q --no-install-recommends make fonts-dejavu-core && rm -rf /var/lib/apt/lists/*
WORKDIR /suite
COPY requirements.txt requirements-extra.txt ./
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -r requirements.txt -r requirements-extra.txt
COPY . .
# `make demo` takes the environment that is there.
RUN mkdir -p .venv/bin && ln -s "$(command -v python)" .venv/bin/python && touch .venv/.installed
RUN useradd --create-home user && chown user /suite
USER user
WORKDIR /work
ENTRYPOINT ["python", "/suite/padding_study.py"]
